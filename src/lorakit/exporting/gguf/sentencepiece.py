"""What SentencePiece's tokens score, from which llama.cpp takes the order of merges.

tokenizer.model says it (a protobuf: google/sentencepiece, sentencepiece_model.proto). Where a
folder has none, they follow from the merges of tokenizer.json (merges.py).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import BaseModelError, FormatError, UnsupportedError
from lorakit.exporting.gguf.merges import derived_scores
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
_FLOAT = struct.Struct("<f").unpack_from


class Piece(NamedTuple):
    text: str
    score: float


def scores(tokenizer: TokenizerJson, size: int) -> Array:
    """Of each token, by its id. Raises BaseModelError, FormatError and UnsupportedError."""
    found = _stored(tokenizer)
    if found is None:
        found = derived_scores(tokenizer)
    by_id = np.full(size, ADDED, np.float32)
    by_id[list(tokenizer.ids.values())] = found
    by_id[[index for index, one in tokenizer.added.items() if index < size and not one.merged]] = (
        ADDED
    )
    return by_id


def read_pieces(path: Path) -> list[Piece]:
    """The pieces of a tokenizer.model, in the order of their ids.

    Raises FileNotFoundError, FormatError, and UnsupportedError for one that is not BPE.
    """
    content = read_whole(path, MAX_MODEL)
    pieces: list[Piece] = []
    kind, at = 1, 0  # unigram, where it does not say
    try:
        while at < len(content):
            at = _usual_pieces(content, at, pieces)
            if at == len(content):
                break
            field, value, at = _field(content, at)
            if field == _PIECES:
                pieces.append(_piece(value))
            elif field == _TRAINER:
                kind = _message(value).get(_KIND, kind)
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise FormatError(f"{path} is not a valid SentencePiece model: {error!r:.200}") from error
    if kind != _BPE:
        raise UnsupportedError(
            f"{path} is a SentencePiece model of the kind {kind}, not BPE",
            hint="llama.cpp's tokenizers of this kind merge as BPE does",
        )
    return pieces


def _usual_pieces(content: bytes, at: int, pieces: list[Piece]) -> int:
    """Take the pieces that begin here, as far as they are written as usual; where they end.

    There are a quarter of a million, in short messages: text, score, and perhaps a kind.
    """
    while content[at] == 0x0A and content[at + 1] < 128 and content[at + 2] == 0x0A:
        text, end = at + 4, at + 2 + content[at + 1]
        score = text + content[at + 3]
        if content[at + 3] > 127 or end - score not in (5, 7) or content[score] != 0x15:
            break
        (value,) = _FLOAT(content, score + 1)
        pieces.append(Piece(content[text:score].decode(), value))
        at = end
        if at == len(content):
            break
    return at


def _piece(content: bytes) -> Piece:
    found = _message(content)
    return Piece(found.get(_TEXT, b"").decode(), _FLOAT(found.get(_SCORE, bytes(4)))[0])


def _message(content: bytes) -> dict[int, Any]:
    """The last value of each field: a number, or bytes that may be a message."""
    at, found = 0, {}
    while at < len(content):
        field, value, at = _field(content, at)
        found[field] = value
    return found


def _field(content: bytes, at: int) -> tuple[int, Any, int]:
    """Number and value of the field that begins here, and where it ends."""
    tag, at = _varint(content, at)
    field, wire = tag >> 3, tag & 7
    if wire == _VARINT:
        value, at = _varint(content, at)
        return field, value, at
    if wire == _BYTES:
        length, at = _varint(content, at)
    elif wire in (_FIXED32, _FIXED64):
        length = 4 if wire == _FIXED32 else 8
    else:
        raise ValueError(f"the wire type {wire} at {at}")
    if length > len(content) - at:
        raise ValueError(f"a field of {length} bytes at {at}, of {len(content)}")
    return field, content[at : at + length], at + length


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


def _stored(tokenizer: TokenizerJson) -> Array | None:
    """As tokenizer.model has them, in the order of `ids`; its tokens must be tokenizer.json's."""
    path = tokenizer.path.with_name(MODEL)
    try:
        pieces = read_pieces(path)
    except FileNotFoundError:
        return None
    count, found, faults = len(pieces), [], []
    for token, index in tokenizer.ids.items():
        piece = pieces[index] if index < count else None
        found.append(ADDED if piece is None else piece.score)
        if (piece is None or piece.text != token) and index not in tokenizer.added:
            theirs = None if piece is None else piece.text
            faults.append(f"{index}: {theirs!r:.60}, in tokenizer.json {token!r:.60}")
    if faults:
        raise BaseModelError(
            f"{path} does not have the tokens of tokenizer.json",
            items=faults[:_SHOWN],
            hint=f"it may be that of another model; without {MODEL}, the scores follow from "
            "tokenizer.json's merges",
        )
    return np.array(found, np.float32)
