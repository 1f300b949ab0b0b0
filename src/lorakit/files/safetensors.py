"""Safetensors files: read as lazily mapped arrays, written the same way every time.

Read in the format's own description (huggingface/safetensors): every length is compared with what
the file holds before it is used, on the very bytes that are mapped, and data has no overlaps and no
holes. Writing is ours because the library's own header is in another order from run to run.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lorakit.adapter import Array
from lorakit.errors import FormatError, SourceError
from lorakit.files.bounded import AGAIN, MAX_READ, count_items, load, parse_json
from lorakit.files.pointers import refuse_pointer

DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER = 16 << 20  # bytes: about 100,000 tensors, three times the largest expert adapters
MAX_TENSORS = 100_000
MAX_NOTES = 20_000  # commas and brackets of a header beyond those of its tensors
MAX_DIMENSIONS = 16
_ENTRY = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFile:
    """An open, validated file: tensors by name (mapped, read-only) and its string metadata."""

    path: Path
    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]


def open_safetensors(path: Path, *, max_size: int | None = None) -> SafetensorsFile:
    """Map a safetensors file of at most `max_size` bytes; small files are read instead.

    Raises SourceError where there is none and FormatError where it is broken or truncated.
    """
    try:
        content = load(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    refuse_pointer(content[:64].tobytes(), path)
    length = int(content[:8].view("<u8")[0]) if len(content) >= 8 else 0
    if not 2 <= length <= len(content) - 8:
        raise FormatError(
            f"{path} is not a complete safetensors file",
            items=[f"header of {length} bytes claimed, file of {len(content)} bytes found"],
            hint=AGAIN,
        )
    for what, found, limit in (
        ("a header of ", length, MAX_HEADER),
        ("", len(content), max_size or len(content)),
    ):
        if found > limit:
            raise FormatError(f"{path} has {what}{found} bytes; {limit} is the limit")
    header, data = content[8 : 8 + length].tobytes(), content[8 + length :]
    try:
        entries = _parse(header)
        metadata = _metadata(entries)
        start = data.ctypes.data  # asked for once: it takes longer than all else here
        tensors = {name: _view(name, entry, data, start) for name, entry in entries.items()}
        _require_contiguous(entries, len(data))
    except ValueError as error:
        raise FormatError(
            f"{path} is not a valid safetensors file: {error}",
            hint="the file may be truncated: download or copy it again",
        ) from error
    return SafetensorsFile(path=path, tensors=tensors, metadata=metadata)


def _parse(header: bytes) -> dict[str, Any]:
    """The header's object, whose size is bounded before it is parsed. Raises ValueError."""
    # an entry has at most 9 commas and brackets up to 4 dimensions; the rest is metadata
    items, objects = count_items(header, MAX_NOTES, per_object=9)
    if objects > MAX_TENSORS + 2 or items > 9 * objects + MAX_NOTES:
        raise ValueError(f"its header names too much: {MAX_TENSORS} tensors is the limit")
    if header.startswith(b"\xef\xbb\xbf"):
        raise ValueError("its header begins with a byte order mark")
    entries = parse_json(header, items=9 * MAX_TENSORS + MAX_NOTES)
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    "".join(entries).encode()  # half a surrogate pair is no character: UnicodeEncodeError
    return entries


def _metadata(entries: dict[str, Any]) -> dict[str, str]:
    metadata = entries.pop("__metadata__", None)
    if metadata is None:  # mlx writes null where it has none
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ is no object of strings")
    "".join((*metadata, *metadata.values())).encode()
    return metadata


def _view(name: str, entry: Any, data: Array, start: int) -> Array:
    """One tensor as a view of the file, whose data begin at the address `start`.

    Raises ValueError for an entry that is not one.
    """
    try:
        return _view_of(entry, data, start)
    except ValueError as error:
        raise ValueError(f"tensor {name[:80]!a} {error}") from error


def _view_of(entry: Any, data: Array, start: int) -> Array:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise ValueError("has no dtype, shape and data_offsets alone")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ValueError("has a shape or data_offsets that are no lists of whole numbers")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"has the unsupported dtype {entry['dtype']!a:.40}")
    (begin, end), size = offsets, math.prod(shape) * dtype.itemsize
    if not begin <= end <= len(data):
        raise ValueError(f"claims bytes {begin} to {end} of {len(data)}")
    if size != end - begin:
        raise ValueError(f"of {end - begin} bytes cannot be {dtype.name} of {shape!s:.200}")
    if not size:
        return np.zeros(shape, dtype)
    if (start + begin) % dtype.itemsize:  # legal in the format and rare
        if len(data) > MAX_READ:
            raise ValueError(f"at byte {begin} is not aligned")
        raw = data[begin:end].copy()
        raw.flags.writeable = False
        return raw.view(dtype).reshape(shape)
    return np.ndarray(shape, dtype, data, begin)


def _are_sizes(values: Any) -> bool:
    if not isinstance(values, list) or len(values) > MAX_DIMENSIONS:
        return False
    for value in values:  # noqa: SIM110 - a generator takes twice as long
        if type(value) is not int or not 0 <= value < 1 << 63:
            return False
    return True


def _require_contiguous(entries: Mapping[str, Any], size: int) -> None:
    """Data has neither overlaps nor holes nor an end of its own. Raises ValueError."""
    at = 0
    for begin, end, name in sorted((*entry["data_offsets"], n) for n, entry in entries.items()):
        if begin != at:
            raise ValueError(f"tensor {name[:80]!a} begins at byte {begin} and not at {at}")
        at = end
    if at != size:
        raise ValueError(f"its tensors end at byte {at} of {size}")


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write tensors in the safetensors format: equal arguments give equal bytes.

    One tensor in memory at a time. Raises FormatError for a dtype that the format lacks.
    """
    header, places = layout({n: (t.dtype, t.shape) for n, t in tensors.items()}, metadata)
    file.write(header)
    for name in places:
        file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)


def layout(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The header of a file of these dtypes and shapes, and where each tensor begins in the file.

    Data is ordered by alignment, then name. Raises FormatError for a dtype that the format lacks.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in order:
        dtype, shape = tensors[name]
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _dtype_name(name, dtype),
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = {name: start + header[name]["data_offsets"][0] for name in order}
    return struct.pack("<Q", len(text)) + text, places


def _dtype_name(name: str, dtype: np.dtype[Any]) -> str:
    found = _NAMES.get(dtype)
    if found is None:
        raise FormatError(f"{name}: safetensors cannot hold the dtype {dtype}")
    return found


_NAMES = {dtype: name for name, dtype in DTYPES.items()}
