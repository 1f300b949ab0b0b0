"""What SentencePiece's tokens score, from which llama.cpp takes the order of merges.

tokenizer.model says it (a protobuf: google/sentencepiece, sentencepiece_model.proto). Where a
folder has none, the order of the merges in tokenizer.json says the same, if every merge that can be
has its place there: `tokens.py` then shows that the ids are equal.
"""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lorakit.errors import BaseModelError, FormatError, UnsupportedError
from lorakit.exporting.gguf.tokenizer_json import TokenizerJson
from lorakit.text.tokenizer import read_whole

MODEL = "tokenizer.model"
MAX_MODEL = 64 << 20  # bytes; Gemma 3's has 4.7 MB
ADDED = -1000.0  # what llama.cpp's converter gives to tokens that are found before text is cut
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_PIECES, _TRAINER = 1, 2  # fields of ModelProto
_TEXT, _SCORE = 1, 2  # of SentencePiece
_KIND, _BPE = 3, 2  # of TrainerSpec: model_type
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    text: str
    score: float


def scores(tokenizer: TokenizerJson, size: int) -> list[float]:
    """Of each token, by its id. Raises BaseModelError, FormatError and UnsupportedError."""
    found = _stored(tokenizer) or _derived(tokenizer)
    return [found.get(index, ADDED) for index in range(size)]


def read_pieces(path: Path) -> list[Piece]:
    """The pieces of a tokenizer.model, in the order of their ids.

    Raises FileNotFoundError, FormatError, and UnsupportedError for one that is not BPE.
    """
    content = read_whole(path, MAX_MODEL)
    pieces, kind = [], 1  # unigram, where it does not say
    try:
        for field, value in _fields(content):
            if field == _PIECES:
                pieces.append(_piece(value))
            elif field == _TRAINER:
                kind = dict(_fields(value)).get(_KIND, kind)
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise FormatError(f"{path} is not a valid SentencePiece model: {error!r:.200}") from error
    if kind != _BPE:
        raise UnsupportedError(
            f"{path} is a SentencePiece model of the kind {kind}, not BPE",
            hint="llama.cpp's tokenizers of this kind merge as BPE does",
        )
    return pieces


def _piece(content: bytes) -> Piece:
    found = dict(_fields(content))
    score = struct.unpack("<f", found.get(_SCORE, bytes(4)))[0]
    return Piece(text=found.get(_TEXT, b"").decode(), score=score)


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: an int, or bytes that may be a message."""
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(content, at)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield field, value
            continue
        if wire == _BYTES:
            length, at = _varint(content, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"the wire type {wire} at {at}")
        if length > end - at:
            raise ValueError(f"a field of {length} bytes at {at}, of {end}")
        yield field, content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number without an end at {at}")


def _stored(tokenizer: TokenizerJson) -> dict[int, float] | None:
    """As tokenizer.model has them; its tokens must be those of tokenizer.json."""
    path = tokenizer.path.with_name(MODEL)
    try:
        pieces = read_pieces(path)
    except FileNotFoundError:
        return None
    found = {}
    faults = []
    texts = dict(enumerate(piece.text for piece in pieces))
    for token, index in tokenizer.ids.items():
        added = tokenizer.added.get(index)
        if added is not None and not added.merged:
            continue
        if texts.get(index) != token:
            faults.append(f"{index}: {texts.get(index)!r:.60}, in tokenizer.json {token!r:.60}")
        else:
            found[index] = pieces[index].score
    if faults:
        raise BaseModelError(
            f"{path} does not have the tokens of tokenizer.json",
            items=faults[:_SHOWN],
            hint=f"it may be that of another model; without {MODEL}, the scores follow from "
            "tokenizer.json's merges",
        )
    return found


def _derived(tokenizer: TokenizerJson) -> dict[int, float]:
    """From the order of the merges, as SentencePiece numbers them: 0, -1, -2 ...

    llama.cpp joins any two tokens whose whole is a token, that with the best score first, and of
    equals the leftmost. So each such pair must be a merge, and the merges that make one token must
    follow each other. Runs of one character may be made in any order: the leftmost grows longest.
    """
    pairs = tokenizer.pairs()
    order: dict[str, int] = {}
    faults = []
    for whole, _ in groupby(left + right for left, right in pairs):
        if order.setdefault(whole, len(order)) != len(order) - 1 and len(set(whole)) > 1:
            faults.append(f"{whole!r:.80}: is made by merges that do not follow each other")
    faults += _unmerged(tokenizer, pairs, order)
    if faults:
        raise UnsupportedError(
            f"{tokenizer.path} has merges that no scores of SentencePiece give",
            items=faults[:_SHOWN],
            hint=f"with the {MODEL} of the model, its own scores are taken",
        )
    last = len(order)
    ranks = {index: order.get(token, last) for token, index in tokenizer.ids.items()}
    single = itertools.count()
    return {
        index: -float(rank if rank < last else last + next(single))
        for index, rank in sorted(ranks.items())
    }


def _unmerged(
    tokenizer: TokenizerJson, pairs: list[tuple[str, str]], order: Mapping[str, int]
) -> list[str]:
    """Tokens that llama.cpp would join from two others of which tokenizer.json has no merge."""
    out = {one.content for one in tokenizer.added.values() if not one.merged}
    parts = ({token for token in tokenizer.ids if len(token) == 1} | order.keys()) - out
    merges = Counter(left + right for left, right in pairs if left in parts and right in parts)
    return [
        f"{token!r:.80}: can be joined in a way of which there is no merge"
        for token in tokenizer.ids
        if len(token) > 1
        and token not in out
        and merges[token]
        != sum(token[:at] in parts and token[at:] in parts for at in range(1, len(token)))
    ]
