"""Saved KV as bytes: llama.cpp's own states, framed with the number of tokens and parts.

llama.cpp trusts the positions in a state, and attention reads values of free cells too. So a state
is parsed and checked here before native code reads it: the file may come from anyone.
Layout: magic, length, number of parts; then for each part its size and llama.cpp's bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.errors import EngineError

MAGIC = b"lorakit KV 2\0\0\0\0"
_HEAD = struct.Struct("<16sQQ")
_SIZE = struct.Struct("<Q")
_CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])
_F32, _F16, _Q8_0 = 0, 1, 8  # ggml_type
_LARGEST = 1e12  # absolute float32 value allowed, so that sums of products stay finite
_CACHES = 2  # at most per context: one for sliding-window layers, one for the others
_LAYERS = 4096
ROTATIONS = (0, 6)  # the version of llama.cpp since which caches begin with their rotations
_BLOCK = 34  # bytes of a block of q8_0: a float16 scale and 32 integers


def pack(parts: Sequence[bytes], length: int) -> bytes:
    """The saved state of a sequence of `length` tokens, from llama.cpp's parts."""
    framed = [piece for part in parts for piece in (_SIZE.pack(len(part)), part)]
    return b"".join([_HEAD.pack(MAGIC, length, len(parts)), *framed])


def unpack(state: bytes, spans: Sequence[tuple[int, int]], *, rotations: bool) -> list[bytes]:
    """The parts that `pack` was given, each checked to hold exactly the tokens of its span.

    rotations: whether this llama.cpp writes how keys and values are rotated; see ROTATIONS. Raises
    EngineError for anything else.
    """
    reader = _Reader(memoryview(state))
    magic, length, count = _HEAD.unpack(reader.take(_HEAD.size))
    if (magic, length, count) != (MAGIC, spans[-1][1], len(spans)):
        raise _broken(f"{length} tokens in {count} parts, expected {spans[-1][1]} in {len(spans)}")
    parts = []
    for span in spans:
        (size,) = _SIZE.unpack(reader.take(_SIZE.size))
        part = reader.take(size)
        _check(part, span, rotations)
        parts.append(bytes(part))
    reader.end()
    return parts


class _Reader:
    """Takes bytes off the front, never more than there are."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def left(self) -> int:
        return len(self._view)

    def take(self, size: int) -> memoryview:
        if size > len(self._view):
            raise _broken("it is truncated")
        taken, self._view = self._view[:size], self._view[size:]
        return taken

    def number(self, form: str) -> int:
        (found,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(found)

    def end(self) -> None:
        if self._view:
            raise _broken("extra bytes at the end")


def _check(part: memoryview, span: tuple[int, int], rotations: bool) -> None:
    """One native state: magic and sequence, then its caches."""
    reader = _Reader(part)
    reader.take(8)
    for _ in range(_CACHES):
        if reader.left:
            _check_cache(reader, span, rotations)
    reader.end()


def _check_cache(reader: _Reader, span: tuple[int, int], rotations: bool) -> None:
    """One cache: its cells, which must be those of the span, then keys and values by layer."""
    streams, cells = reader.number("<I"), reader.number("<I")
    start, end = span
    if streams != 1 or cells != end - start:
        raise _broken(f"{cells} cells, expected {end - start}")
    meta = np.frombuffer(reader.take(cells * _CELL.itemsize), _CELL)
    if not np.array_equal(np.sort(meta["position"]), np.arange(start, end)):
        raise _broken("the positions are not consecutive")
    if (meta["sequences"] != 1).any():
        raise _broken("a cell belongs to several sequences")
    transposed, layers = reader.number("<I"), reader.number("<I")
    if transposed > 1 or layers > _LAYERS:
        raise _broken(f"{layers} layers")
    if rotations:
        reader.take(8)  # of keys and of values; llama.cpp refuses other than its own
    for _ in range(layers):
        kind, row = reader.number("<i"), reader.number("<Q")
        _check_numbers(reader.take(row * cells), kind)
    for _ in range(layers):
        kind = reader.number("<i")
        row = reader.number("<I") * reader.number("<I") if transposed else reader.number("<Q")
        _check_numbers(reader.take(row * cells), kind)


def _check_numbers(content: memoryview, kind: int) -> None:
    """All must be finite: even a freed cell is still multiplied by 0, and NaN times 0 is NaN."""
    try:
        numbers = _NUMBERS[kind](content)
    except (KeyError, ValueError) as error:
        raise _broken(f"values of the unknown type {kind}") from error
    finite = np.isfinite(numbers).all()
    if not finite or (kind == _F32 and not (np.abs(numbers) < _LARGEST).all()):
        raise _broken("values that are not finite")


def _scales(content: memoryview) -> npt.NDArray[Any]:
    blocks = np.frombuffer(content, np.uint8).reshape(-1, _BLOCK)
    return blocks[:, :2].copy().view("<f2")


_NUMBERS = {
    _F32: lambda content: np.frombuffer(content, "<f4"),
    _F16: lambda content: np.frombuffer(content, "<f2"),
    _Q8_0: _scales,
}


def _broken(what: str) -> EngineError:
    return EngineError("this is not a KV cache saved by the llama engine", items=[what])
