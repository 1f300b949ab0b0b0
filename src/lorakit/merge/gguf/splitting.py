"""How byte-level tokenizers cut a text before they merge: by the name that a GGUF file gives it.

The names are llama.cpp's (src/llama-vocab.cpp); the expressions those of the families' own
tokenizer.json files, which say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lorakit.errors import UnsupportedError

_END = r"|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + _END
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LINES = r"|\s*[\r\n]+" + _END
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _LINES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PATHS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _LINES


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """expressions: each cuts the pieces of the one before. whole_words: a piece that is a token is
    not cut further. composed: the text is brought to NFC first. begins: <bos> comes first, where
    the file does not say whether it does. approximate: llama.cpp's own expression is another one:
    it takes no marks for parts of words, and tells capitals from small letters in ASCII alone."""

    expressions: tuple[str, ...]
    whole_words: bool = False
    composed: bool = False
    begins: bool = False
    approximate: bool = False

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        """As tokenizer.json says it."""
        steps: list[dict[str, Any]] = [
            {
                "type": "Split",
                "pattern": {"Regex": expression},
                "behavior": "Isolated",
                "invert": False,
            }
            for expression in self.expressions
        ]
        return {"type": "Sequence", "pretokenizers": [*steps, byte_level(use_regex=False)]}


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    """The step that turns bytes into the characters of the vocabulary."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


_LLAMA3 = Splitting(
    expressions=(_CONTRACTION + _WORD + r"|\p{N}{1,3}" + _SYMBOLS,), whole_words=True, begins=True
)
_QWEN2 = Splitting(expressions=(_CONTRACTION + _WORD + r"|\p{N}" + _SYMBOLS,), composed=True)
_DIGITS = Splitting(expressions=(r"\p{N}", _GPT2))
_CASED = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+"
_CAPITALS = r"|[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*"
_DEEPSEEK3 = Splitting(
    expressions=(
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _LINES,
    ),
)
_DEFAULT = Splitting(
    expressions=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
)
SPLITTINGS = {
    "gpt-2": Splitting(expressions=(_GPT2,)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": replace(_LLAMA3, whole_words=False, begins=False),
    "tekken": Splitting(
        expressions=(_CASED + _CAPITALS + r"|\p{N}" + _PATHS,),
        whole_words=True,
        begins=True,
        approximate=True,
    ),
    "gpt-4o": Splitting(
        expressions=(
            f"{_CASED}{_CONTRACTION}?{_CAPITALS}{_CONTRACTION}?" + r"|\p{N}{1,3}" + _PATHS,
        ),
        approximate=True,
    ),
    "deepseek-v3": _DEEPSEEK3,
    "deepseek-coder": Splitting(
        expressions=(
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            r"\p{N}",
        ),
    ),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "default": _DEFAULT,
}


def splitting(name: str) -> Splitting:
    """Raises UnsupportedError for a name that is not known."""
    if name not in SPLITTINGS:
        raise UnsupportedError(
            f"the file's tokenizer cuts text by {name!r:.40}, which is not known here",
            hint=f"known are {', '.join(sorted(SPLITTINGS))}; a wrong one would give wrong ids",
        )
    return SPLITTINGS[name]
