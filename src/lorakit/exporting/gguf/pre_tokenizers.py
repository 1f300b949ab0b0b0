"""The name that llama.cpp has for the way a byte-level tokenizer cuts text before it merges.

tokenizer.json says the same in several spellings: a regular expression in a Split, ByteLevel's own,
Digits; escaped or not, with one or the other form of the English contractions. They are brought to
one spelling and looked up in the table that the way back uses. An expression that is not there may
still do the same with a vocabulary whose tokens it never cuts: a name whose expressions give the
same ids of a corpus is taken, and none where there is no such name.
"""

from __future__ import annotations

import json
import re

import tokenizers

from lorakit.errors import UnsupportedError
from lorakit.exporting.gguf.tokenizer_json import SHOWN, TokenizerJson
from lorakit.merge.gguf.corpus import corpus
from lorakit.merge.gguf.splitting import SPLITTINGS
from lorakit.text.tokenizer import Json, Tokenizer, steps

_GPT2 = SPLITTINGS["gpt-2"].expressions
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPELLINGS = {  # of the same, as it is spelt in the table
    "\r": r"\r",
    "\n": r"\n",
    r"'(?i:[sdmt]|ll|ve|re)": _CONTRACTION,
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])": _CONTRACTION,
    r"?+\p{L}": r"?\p{L}",  # nothing could be given back
    "++[": "+[",
    "{1}": "",
}
_KNOWN_LONGEST = "default"  # tried first: every llama.cpp has it
_MOST = 65_536  # tokens: other expressions are tried with no larger vocabulary
_ROUNDS = 8  # how often each of them begins a text, and stands in others


def pre_tokenizer_name(tokenizer: TokenizerJson) -> str:
    """Raises UnsupportedError, which shows the expressions, where llama.cpp has no name."""
    found = _expressions(tokenizer)
    whole_words = bool(tokenizer.model.get("ignore_merges"))
    names = [
        name for name, known in SPLITTINGS.items() if tuple(map(_spelt, known.expressions)) == found
    ]
    for name in names:
        if SPLITTINGS[name].whole_words == whole_words:
            return name
    if names and _makes_all(tokenizer):
        return names[0]
    name = _that_does_the_same(tokenizer, whole_words)
    if name:
        return name
    raise UnsupportedError(
        f"{tokenizer.path} cuts text in a way that has no name in GGUF files, or none known here",
        items=[
            *(f"expression: {expression:.{SHOWN}}" for expression in found),
            f"ignore_merges: {str(whole_words).lower()}",
        ],
        hint=f"known are {', '.join(sorted(SPLITTINGS))}; a wrong one would give wrong ids",
    )


def _expressions(tokenizer: TokenizerJson) -> tuple[str, ...]:
    """What the text is cut by, one after the other."""
    *before, last = steps(tokenizer.pre_tokenizer, "pretokenizers") or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        tokenizer.refuse("a pre_tokenizer", tokenizer.pre_tokenizer)
    own = _GPT2 if last.get("use_regex", True) else ()
    found = [_expression(tokenizer, step) for step in before]
    return tuple(_spelt(expression) for expression in (*found, *own))


def _expression(tokenizer: TokenizerJson, step: Json) -> str:
    kind = step.get("type")
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    cut = (step.get("behavior"), bool(step.get("invert")))
    # "Removed" and inverted keeps the matches: the same where the expression leaves nothing out
    if kind != "Split" or cut not in (("Isolated", False), ("Removed", True)):
        tokenizer.refuse("a step of the pre_tokenizer", step)
    pattern = step.get("pattern") or {}
    if isinstance(pattern.get("String"), str):
        return re.escape(str(pattern["String"]))
    if not isinstance(pattern.get("Regex"), str):
        tokenizer.refuse("a step of the pre_tokenizer", step)
    return str(pattern["Regex"])


def _spelt(expression: str) -> str:
    for spelling, ours in _SPELLINGS.items():
        expression = expression.replace(spelling, ours)
    return expression


def _that_does_the_same(tokenizer: TokenizerJson, whole_words: bool) -> str:
    """The first name in the table that gives the same ids of many texts; "" for none."""
    if len(tokenizer.ids) > _MOST:
        return ""
    ours = Tokenizer.open(tokenizer.path.parent)
    pieces = [
        ours.token_bytes(token).decode("utf-8", "replace") for token in tokenizer.ids.values()
    ]
    texts = list(corpus([], pieces * _ROUNDS, composed=False, approximate=False))
    right = _with(tokenizer, tokenizer.pre_tokenizer)
    wanted = [right.encode(text).ids for text in texts]
    for name in (_KNOWN_LONGEST, *SPLITTINGS):
        known = SPLITTINGS[name]
        if known.whole_words == whole_words and not known.approximate:
            other = _with(tokenizer, known.pre_tokenizer)
            pairs = zip(texts, wanted, strict=True)
            if all(other.encode(text).ids == ids for text, ids in pairs):
                return name
    return ""


def _makes_all(tokenizer: TokenizerJson) -> bool:
    """Whether merges make every token, so that it is the same to take a word that is one whole."""
    bare = _with(tokenizer, None)
    return all(
        bare.encode(token).ids == [index]
        for token, index in tokenizer.ids.items()
        if index not in tokenizer.added
    )


def _with(tokenizer: TokenizerJson, pre_tokenizer: Json | None) -> tokenizers.Tokenizer:
    """Its merges alone, after text is cut in one way or another."""
    model = {**tokenizer.model, "dropout": None}
    if pre_tokenizer is None:
        model["ignore_merges"] = False
    content = {"version": "1.0", "pre_tokenizer": pre_tokenizer, "model": model}
    return tokenizers.Tokenizer.from_str(json.dumps(content))
