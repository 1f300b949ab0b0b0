"""What a GGUF file says of a base's tokenizer, from the folder's own files.

Two kinds, as on the way back (merge/gguf/tokenizer.py): BPE over bytes ("gpt2"), and SentencePiece,
BPE with byte fallback ("llama"). Keys and kinds of tokens as in ggml-org/ggml, docs/gguf.md; what
llama.cpp does with them is in its src/llama-vocab.cpp. What it cannot be told is refused here, and
whether it gives the same ids is seen in tokens.py.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorakit.base.folder import Base
from lorakit.chat.template_files import template_sources
from lorakit.exporting.gguf.pre_tokenizers import pre_tokenizer_name
from lorakit.exporting.gguf.roles import around, end_notes, roles
from lorakit.exporting.gguf.sentencepiece import scores
from lorakit.exporting.gguf.spaces import spaces
from lorakit.exporting.gguf.tokenizer_json import TokenizerJson, tokens
from lorakit.files.gguf import Value
from lorakit.merge.gguf.splitting import SPLITTINGS
from lorakit.merge.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    NOT_STRIPPING,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from lorakit.text.tokenizer import steps

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_NFC = "llama.cpp composes no characters: text that is not in NFC gets other ids"
_MARKS = (
    "llama.cpp cuts words with combining marks (Hindi, Thai, vowelled Arabic), and words in "
    "capitals that are not ASCII, otherwise: they get other ids"
)
_OF_PHI3 = NOT_STRIPPING | {"</s>"}  # without which llama.cpp refuses what has this name
Keys = dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    """keys: every tokenizer.* key but the chat templates, in llama.cpp's usual order.

    size: tokens that the file lists, which are the rows of the embedding and of the head.
    stripping: special tokens take the spaces after them, which llama.cpp does of all models whose
    general.name has "phi-3" in it, and of no others. notes: where it takes text otherwise.
    """

    keys: Mapping[str, Value]
    size: int
    stripping: bool
    notes: tuple[str, ...]


def gguf_vocabulary(base: Base, rows: int) -> GgufVocabulary:
    """The vocabulary of a folder, for an embedding of so many rows.

    Rows that no token has are [PADn]; added tokens beyond them are left out. Raises BaseModelError,
    FormatError, and UnsupportedError for a tokenizer that llama.cpp cannot be told.
    """
    with _no_collection():
        return _vocabulary(base.path, rows)


def _vocabulary(folder: Path, rows: int) -> GgufVocabulary:
    tokenizer = TokenizerJson.open(folder)
    texts = tokens(tokenizer, rows)
    listed = [texts.get(index, f"[PAD{index}]") for index in range(rows)]
    kind = _sentencepiece if tokenizer.is_sentencepiece else _byte_level
    keys, notes = kind(tokenizer, listed)
    named = roles(folder, tokenizer, listed)
    keys |= named | around(tokenizer, named, listed)
    _require_distinct(tokenizer, listed)
    return GgufVocabulary(
        keys={f"tokenizer.ggml.{key}": value for key, value in keys.items()},
        size=rows,
        stripping=_stripping(tokenizer),
        notes=(*notes, *end_notes(folder, named, listed)),
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """A million objects are made that all live: looking for those that do not takes as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _byte_level(tokenizer: TokenizerJson, listed: list[str]) -> tuple[Keys, tuple[str, ...]]:
    found = steps(tokenizer.normalizer, "normalizers")
    if any(step.get("type") != "NFC" for step in found):
        tokenizer.refuse("a normalizer", tokenizer.normalizer)
    for setting in ("continuing_subword_prefix", "end_of_word_suffix"):
        if tokenizer.model.get(setting):
            tokenizer.refuse(f"a {setting}", tokenizer.model[setting])
    pairs = tokenizer.pairs()
    if any(" " in part for pair in pairs for part in pair):
        tokenizer.refuse("a merge with a space in it", next(p for p in pairs if " " in "".join(p)))
    name = pre_tokenizer_name(tokenizer)
    keys = {
        "model": Value("str", "gpt2"),
        "pre": Value("str", name),
        "tokens": Value("str", tuple(listed), array=True),
        "token_type": Value("i32", _types(tokenizer, listed), array=True),
        "merges": Value("str", tuple(map(" ".join, pairs)), array=True),
    }
    notes = {_NFC: bool(found), _MARKS: SPLITTINGS[name].approximate}
    return keys, tuple(note for note, holds in notes.items() if holds)


def _sentencepiece(tokenizer: TokenizerJson, listed: list[str]) -> tuple[Keys, tuple[str, ...]]:
    if tokenizer.model.get("ignore_merges"):
        tokenizer.refuse("ignore_merges with SentencePiece", True)
    if missing := [byte for byte in _BYTES if byte not in tokenizer.ids]:
        tokenizer.refuse(f"{len(missing)} bytes that have no token", ", ".join(missing))
    chats = bool(template_sources(tokenizer.path.parent))
    before = spaces(tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.ids, chats=chats)
    if before is None:
        tokenizer.refuse(
            "a way to change or cut text", (tokenizer.normalizer, tokenizer.pre_tokenizer)
        )
    late = [one.content for one in tokenizer.added.values() if one.late]
    if late and before.scheme == "prepend":
        tokenizer.refuse("added tokens that are found behind a space alone (normalized)", late[:20])
    keys = {
        "model": Value("str", "llama"),
        "pre": Value("str", "default"),
        "tokens": Value("str", tuple(listed), array=True),
        "scores": Value("f32", scores(tokenizer, len(listed)), array=True),
        "token_type": Value("i32", _types(tokenizer, listed), array=True),
        "add_space_prefix": Value("bool", before.prefixed),
    }
    return keys, ((before.note,) if before.note else ())


def _types(
    tokenizer: TokenizerJson, listed: list[str]
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    types = np.full(len(listed), NORMAL, np.int32)
    holes = set(range(len(listed))) - set(tokenizer.ids.values())
    types[list(holes)] = UNUSED
    if tokenizer.is_sentencepiece:
        types[[tokenizer.ids[byte] for byte in _BYTES]] = BYTE
    for index, one in tokenizer.added.items():
        if index < len(listed):
            types[index] = CONTROL if one.special else NORMAL if one.merged else USER_DEFINED
    unknown = tokenizer.ids.get(tokenizer.model.get("unk_token") or "")
    if unknown is not None and tokenizer.is_sentencepiece:
        types[unknown] = UNKNOWN
    return types


def _stripping(tokenizer: TokenizerJson) -> bool:
    """Whether special tokens take the spaces after them: all of them, as Phi 3's do, or none."""
    if odd := [one.content for one in tokenizer.added.values() if one.left or one.word]:
        tokenizer.refuse("tokens found by what is beside them", odd[:20])
    taking = {one.content for one in tokenizer.added.values() if one.right}
    found = {one.content for one in tokenizer.added.values()}
    if taking and (taking != found - NOT_STRIPPING or not found >= _OF_PHI3):
        tokenizer.refuse("some tokens that take the spaces after them", sorted(taking)[:20])
    return bool(taking)


def _require_distinct(tokenizer: TokenizerJson, listed: list[str]) -> None:
    """llama.cpp ends the process over a text that two tokens have."""
    if len(set(listed)) < len(listed) or "" in listed:
        twice = [text for text, count in Counter(listed).items() if count > 1]
        tokenizer.refuse("tokens of the same text, or of none", twice[:20])
