"""Texts on which a tokenizer is compared with llama.cpp's: what both must encode to the same ids.

Texts of many scripts, numbers, code and spaces; special tokens within text; tokens of the
vocabulary, each as a text of its own and several in a row, as no text has them. Left out is where
llama.cpp is not what models are trained with: it composes no characters (NFC), and some of its
expressions know no marks, and no capitals outside ASCII.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator

SAMPLE = 2000  # tokens of the vocabulary that are taken
ROW = 6  # tokens in a row, and between them
GLUE = (
    "",
    "",
    "",
    *" '\"_-.,:;/(){}<=\n\t0179sStTR",
)  # where expressions decide one way or another
MANY, GROUP = 1000, 16  # special tokens: more than that stand together in a text
SPACES = " \n\t"  # of which vocabularies have tokens for runs of many lengths
RUNS = (2, 3, 4, 5, 7, 8, 11, 16, 23, 33, 70)
TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's what they'd've said, isn't it? I'LL GO.",
    "In 1984, 3.14159 x 2 = 6.28318; 1,000,000 people paid $12.50 (or 11,30 \u20ac) \u2014 5% off!",
    "Der \u00dcberfluss an Ma\u00dfb\u00e4ndern \u00e4rgert die G\u00e4rtner; "
    "\u00abvoil\u00e0\u00bb, dit l'\u00e9l\u00e8ve \u00e0 No\u00ebl.",
    "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 "
    "\u043c\u044f\u0433\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a. "
    "\u039e\u03b5\u03c3\u03ba\u03b5\u03c0\u03ac\u03b6\u03c9 \u03c4\u03b7\u03bd.",
    "\u4eca\u65e5\u306f\u5929\u6c17\u304c\u3044\u3044\u3067\u3059\u306d\u3002"
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 "
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd "
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e "
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 "
    "\u00bd \u2154 \u00b2 \u2460 \u2168 \u0664\u0665",
    "def f(x: int) -> str:\n    if x <= 0:\n\treturn f\"{x!r:>8}\"\n    return 'a' * x  # why\n\n",
    'for (int i=0;i<n;++i){a[i]^=b[i]&0xFF;}\r\n\r\n<p class="x">&amp;</p> {"k": [null, -1e-9]}',
    " leading",
    "  two",
    "trailing   ",
    "\n",
    " \n \n\t\t x  \n",
    "a\u00a0b\u3000c",
    "",
    " ",
    "http://example.org/a_b?c=d&e=f#g user@example.com \\frac{a}{b} $x_1^2$ __init__ ~/.bashrc",
    "'status' 'true' 'red' 'very' 'mode' 'llama' 'date' {'s':'t'} x='Sub' O'Reilly'S 'TIS y'all'd",
    "fooBar HTTPServer2 iPhone15Pro abc12345def67 v1.2.3-rc4 0x1F 2nd_item a/b//c\n/d //\n\n ///x",
    "Tokyo\u6771\u4eac2020\u5e74\u3072\u3089\u30ab\u30bfabc \t word\u00a0next\r\n\tin  \n  \nto",
)


def corpus(
    special: Iterable[str], pieces: Iterable[str], *, composed: bool, approximate: bool
) -> Iterator[str]:
    """special: tokens that are found in a text. pieces: texts of tokens of the vocabulary.

    composed, approximate: see merge.gguf.splitting.
    """
    held = list(pieces)
    drawn = random.Random(0)
    rows = ["".join(drawn.choice(held) + drawn.choice(GLUE) for _ in range(ROW)) for _ in held]
    marked = [f"a {name} b{name}c" for name in special]
    if len(marked) > MANY:  # llama.cpp looks for each of them in each text
        marked = [" ".join(marked[at : at + GROUP]) for at in range(0, len(marked), GROUP)]
    runs = [f"a{space * length}b" for space in SPACES for length in RUNS]
    texts = [*TEXTS, *runs, *marked, *(f"{piece} x{piece}" for piece in held), *rows]
    if approximate:
        texts = [text for text in texts if not any(map(_is_approximate, text))]
    for text in (*texts, "\n".join(text for text in TEXTS if text in texts)):
        yield unicodedata.normalize("NFC", text) if composed else text


def sample(count: int) -> range:
    """Ids of so many tokens at most that are spread over a vocabulary."""
    return range(0, count, max(1, -(-count // SAMPLE)))


def _is_approximate(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] == "M" or (kind in ("Lu", "Lt") and not character.isascii())
