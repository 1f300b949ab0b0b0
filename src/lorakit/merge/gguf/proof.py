"""Whether a tokenizer that was made from a vocabulary gives the ids of the file's own.

Compared are texts of many scripts, numbers, code and spaces; every special token; and a sample of
the vocabulary, each token as a text of its own. Two things are left out, in which llama.cpp is not
what the model was trained with: it takes some names for control tokens whatever the file says of
them, and it composes no characters (NFC).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from lorakit.errors import UnsupportedError
from lorakit.merge.gguf.tokenizer import Vocabulary
from lorakit.text.tokenizer import TextTokenizer, Tokenizer

SAMPLE = 4000  # tokens of the vocabulary that are taken as texts of their own
SHOWN = 5
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
)


def require_same_ids(folder: Path, vocabulary: Vocabulary, theirs: TextTokenizer) -> int:
    """How many texts were compared.

    Raises UnsupportedError that shows texts which the tokenizer in the folder encodes otherwise.
    """
    ours = Tokenizer.open(folder)
    faults, count = [], 0
    for text in _texts(vocabulary, theirs):
        count += 1
        mine, their = (one.encode(text, special=True) for one in (ours, theirs))
        if mine != their:
            faults.append(f"{text!r:.60}: {_short(mine)}, by llama.cpp {_short(their)}")
            if len(faults) == SHOWN:
                break
    if faults:
        raise UnsupportedError(
            "the tokenizer made from this file does not give the ids of the file's own",
            items=faults,
            hint="this is a fault of lorakit, or the vocabulary is of a kind that it does not know",
        )
    return count


def _texts(vocabulary: Vocabulary, theirs: TextTokenizer) -> Iterator[str]:
    yield from TEXTS
    yield "\n".join(TEXTS)
    for name in vocabulary.special.values():
        yield f"a {name} b{name}c"
    composed = vocabulary.splitting is not None and vocabulary.splitting.composed
    step = max(1, len(vocabulary.tokens) // SAMPLE)
    for token in range(0, len(vocabulary.tokens), step):
        if token not in theirs.control_ids:
            text = theirs.token_bytes(token).decode("utf-8", "replace")
            text = f"{text} x{text}"
            yield unicodedata.normalize("NFC", text) if composed else text


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"{ids[:12]} ... ({len(ids)})"
