"""GGUF files, read as typed values and mapped tensors.

Only the container: it knows nothing of adapters or models. Read in the format's own description
(ggml-org/ggml, docs/gguf.md): little-endian versions 2 and 3.
Every length is compared with what the file holds before it is used, and nothing recurses.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import FormatError, SourceError, UnsupportedError
from lorakit.files.bounded import MAX_READ, load, open_regular
from lorakit.files.dequantize import READABLE, dequantize
from lorakit.files.gguf_types import ARRAY, LENGTH, PLAIN, STORED, TENSOR_TYPES, VALUE_TYPES, padded

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # bytes, where `general.alignment` says nothing
MAX_ALIGNMENT = 1 << 20
MAX_KEYS = 65_536
MAX_TENSORS = 40_000
MAX_DIMENSIONS = 4
MAX_NAME = 1024  # bytes of a key or a tensor's name; llama.cpp takes 63 for the latter
MAX_STRINGS = 1_000_000  # items of string arrays in one file; the largest vocabularies have 300,000
MAX_TEXT = 16 << 20  # bytes of all strings in one file; Gemma 3 has 11 MB, merges and all

_ADAPTERS = ("F32", "F16", "BF16", "Q8_0")  # what llama.cpp's converter writes of an adapter


@dataclass(frozen=True, slots=True)
class Value:
    """A typed value. kind (of an array: its items): u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str.

    data: an int, float, bool or str; for an array a tuple of str, or a one-dimensional numpy array.
    """

    kind: str
    data: Any
    array: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor as stored. shape: as numpy counts, so the reverse of ggml's ne."""

    kind: str  # a name of files.gguf_types
    shape: tuple[int, ...]
    raw: Array  # the mapped bytes, read-only

    def array(self) -> Array:
        """The values: mapped where the type is a plain one, else dequantised to float32.

        Raises UnsupportedError for a type whose blocks are not read.
        """
        if self.kind in PLAIN:
            plain: Array = self.raw.view(PLAIN[self.kind])
            return plain.reshape(self.shape)
        if self.kind not in READABLE:
            raise UnsupportedError(f"values of the type {self.kind} are not read")
        values: Array = dequantize(self.kind, self.raw).reshape(self.shape)
        values.flags.writeable = False
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """An open, validated file: values by key and tensors by name, in the order of the file.

    stored: the type and content of each value, as bytes that can be written again.
    parts: the files of a model in several, which gguf_parts.py opens as one.
    """

    path: Path
    values: Mapping[str, Value]
    stored: Mapping[str, memoryview]
    tensors: Mapping[str, Tensor]
    parts: tuple[Path, ...] = ()


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that begins as a GGUF file does. Raises SourceError."""
    if not path.is_file():
        return False
    try:
        with open_regular(path) as file:
            return file.read(4) == MAGIC
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def open_gguf(
    path: Path,
    *,
    model: bool = False,
    vocabulary: bool = False,
    max_strings: int = MAX_STRINGS,
    max_read: int = MAX_READ,
) -> GgufFile:
    """Map a GGUF file.

    model: it is a whole model's: quantised tensors of every type are taken, and arrays of strings
    are passed over and left empty, unless the vocabulary is wanted. max_read: bytes up to which it
    is read rather than mapped.

    Raises SourceError where there is none, FormatError where it is broken, truncated or beyond the
    bounds, and UnsupportedError for a version or a tensor type that is not read here.
    """
    try:
        content = load(path, max_read)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    return _Reader(path, content, max_strings, model, vocabulary).file()


class _Reader:
    """A cursor over a mapped file; every read is checked against the file's end first."""

    def __init__(
        self, path: Path, content: Array, max_strings: int, model: bool, vocabulary: bool
    ) -> None:
        self._path = path
        self._model = model
        self._passes_over = model and not vocabulary
        self._content = content
        self._bytes = memoryview(content.data)
        self._at = 0
        self._strings = self._max_strings = max_strings
        self._text = MAX_TEXT

    def file(self) -> GgufFile:
        if bytes(self._take(4, "the magic")) != MAGIC:
            raise self._broken("it does not begin with GGUF")
        version = self._number("<I", "the version")
        if version not in (2, VERSION):
            raise UnsupportedError(
                f"{self._path} is a GGUF file of version {version}; 2 and 3 are read",
                hint="big-endian and version 1 files must be converted first",
            )
        tensors = self._count("tensors", MAX_TENSORS)
        keys = self._count("keys", MAX_KEYS)
        values: dict[str, Value] = {}
        stored: dict[str, memoryview] = {}
        for _ in range(keys):
            key = self._name("a key")
            if key in values:
                raise self._broken(f"the key {key!r:.80} is there twice")
            begin = self._at
            values[key] = self._value(key)
            stored[key] = self._bytes[begin : self._at]
        infos = [self._info() for _ in range(tensors)]
        start = padded(self._at, self._alignment(values))
        found = self._tensors(infos, start, values)
        return GgufFile(
            path=self._path, values=values, stored=stored, tensors=found, parts=(self._path,)
        )

    def _value(self, key: str) -> Value:
        number = self._number("<I", f"the type of {key!r:.80}")
        if number != ARRAY:
            kind = self._kind(number, key)
            return Value(kind, self._scalar(kind, key))
        kind = self._kind(self._number("<I", f"the item type of {key!r:.80}"), key)
        count = int(self._number("<Q", f"the length of {key!r:.80}"))
        if kind == "str":
            if not self._passes_over:
                self._strings -= count
            if self._strings >= 0 and count * 8 > self._left:
                raise self._ends(f"the {count} strings of {key!r:.80}")
            if self._strings < 0:
                raise self._broken(
                    f"{key!r:.80} claims {count} strings, "
                    f"of {self._max_strings} that all arrays may hold together"
                )
            if self._passes_over:
                self._pass_over(count, key)
                return Value(kind, (), array=True)
            return Value(kind, self._string_items(key, count), array=True)
        stored = STORED[kind]
        raw = self._take(count * stored.itemsize, f"the {count} items of {key!r:.80}")
        items = np.frombuffer(raw, stored) if count else np.empty(0, stored)
        return Value(kind, items, array=True)

    def _pass_over(self, count: int, key: str) -> None:
        """Strings that nobody asks for; only their lengths are read."""
        at, end, content = self._at, len(self._content), self._bytes
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > end:
                break
            at += 8 + unpack(content, at)[0]
        if at > end:
            raise self._broken(f"it ends before {key!r:.80}")
        self._at = at

    def _kind(self, number: int, key: str) -> str:
        if number == ARRAY:
            raise self._broken(f"{key!r:.80} is an array of arrays, which llama.cpp refuses too")
        if number not in VALUE_TYPES:
            raise self._broken(f"{key!r:.80} has the unknown type {number}")
        return VALUE_TYPES[number][0]

    def _scalar(self, kind: str, key: str) -> Any:
        if kind == "str":
            return self._string(key)
        stored = STORED[kind]
        raw = self._take(stored.itemsize, f"the value of {key!r:.80}")
        value = np.frombuffer(raw, stored)[0].item()
        if kind == "bool" and value > 1:
            raise self._broken(f"{key!r:.80} is neither true nor false")
        return bool(value) if kind == "bool" else value

    def _info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._name("a tensor name")
        dimensions = int(self._number("<I", f"the dimensions of {name!r:.80}"))
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._broken(f"{name!r:.80} has {dimensions} dimensions")
        extent = [int(self._number("<Q", f"the shape of {name!r:.80}")) for _ in range(dimensions)]
        kind = int(self._number("<I", f"the type of {name!r:.80}"))
        return (
            name,
            kind,
            tuple(reversed(extent)),
            int(self._number("<Q", f"offset of {name!r:.80}")),
        )

    def _tensors(
        self, infos: list[tuple[str, int, tuple[int, ...], int]], start: int, values: Any
    ) -> dict[str, Tensor]:
        alignment, size = self._alignment(values), len(self._content)
        tensors: dict[str, Tensor] = {}
        unknown, spans = [], []
        for name, kind, shape, offset in infos:
            if name in tensors:
                raise self._broken(f"the tensor {name!r:.80} is there twice")
            found = TENSOR_TYPES.get(kind)
            if found is None or not (self._model or found[0] in _ADAPTERS):
                unknown.append(f"{name:.80}: ggml type {kind}")
                continue
            label, block, itemsize = found
            count = math.prod(shape)
            if not count or shape[-1] % block:
                raise self._broken(f"{name!r:.80} cannot have the shape {list(shape)} as {label}")
            begin = start + offset
            end = begin + count // block * itemsize
            if end > size:
                raise self._ends(f"{name!r:.80}, which claims bytes {begin} to {end}")
            if offset % alignment:
                raise self._broken(f"{name!r:.80} claims bytes from {begin}, between two blocks")
            spans.append((begin, end, name))
            tensors[name] = Tensor(kind=label, shape=shape, raw=self._content[begin:end])
        if unknown:
            raise UnsupportedError(
                f"{self._path} holds tensors of types that are not read here",
                items=unknown[:20],
                hint="convert the file to F32, F16, BF16 or Q8_0",
            )
        spans.sort()
        for (_, end, name), (begin, _, other) in pairwise(spans):
            if begin < end:
                raise self._broken(f"the tensors {name!r:.80} and {other!r:.80} overlap")
        return tensors

    def _alignment(self, values: Mapping[str, Value]) -> int:
        value = values.get("general.alignment", Value("u32", ALIGNMENT))
        found = value.data
        good = value.kind == "u32" and not value.array and 0 < found <= MAX_ALIGNMENT
        if not good or found & (found - 1):
            raise self._broken(f"general.alignment is {found!r:.40}")
        return int(found)

    def _count(self, what: str, limit: int) -> int:
        count = int(self._number("<Q", f"the number of {what}"))
        # the smallest key or tensor takes 13 bytes
        if count <= limit and count * 13 > self._left:
            raise self._ends(f"the {count} {what}")
        if count > limit:
            raise self._broken(f"it claims {count} {what} ({limit} is the limit)")
        return count

    def _name(self, what: str) -> str:
        return self._string(what, limit=MAX_NAME)

    def _string(self, what: str, limit: int = MAX_TEXT) -> str:
        length = int(self._number("<Q", f"the length of {what:.80}"))
        self._text -= length
        if length > limit or self._text < 0:
            raise self._broken(f"{what:.80} has {length} bytes ({limit} is the limit)")
        try:
            return str(self._take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self._broken(f"{what:.80} is not UTF-8") from error

    def _string_items(self, key: str, count: int) -> tuple[str, ...]:
        """The strings of an array, in a tight loop of its own: vocabularies are long."""
        content, at, unpack = self._bytes, self._at, LENGTH.unpack_from
        end = min(len(self._content), at + 8 * count + self._text)
        items = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + unpack(content, at)[0]
                if at > end:
                    raise self._broken(f"the strings of {key!r:.80} are too long, or cut off")
                items.append(str(content[start:at], "utf-8"))
        except (struct.error, UnicodeDecodeError) as error:
            raise self._broken(f"the strings of {key!r:.80} are cut off, or no UTF-8") from error
        self._text -= at - self._at - 8 * count
        self._at = at
        return tuple(items)

    def _number(self, layout: str, what: str) -> int:
        size = struct.calcsize(layout)
        number: int = struct.unpack(layout, self._take(size, what))[0]
        return number

    def _take(self, length: int, what: str) -> memoryview:
        if length > self._left:
            raise self._ends(f"{what:.120}")
        self._at += length
        return self._bytes[self._at - length : self._at]

    @property
    def _left(self) -> int:
        return len(self._content) - self._at

    def _ends(self, before: str) -> FormatError:
        return self._broken(f"the file ends at byte {len(self._content)}, before {before}")

    def _broken(self, reason: str) -> FormatError:
        return FormatError(
            f"{self._path} is not a valid GGUF file: {reason}",
            hint="the file may be truncated: download or copy it again",
        )
