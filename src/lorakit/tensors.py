"""Safetensors files: read as lazily mapped arrays, written the same way every time.

The safetensors library itself validates a file (header, overlaps, holes, bounds) before we map it;
mapping is ours because the library's numpy reader copies each tensor that it hands out. Writing is
ours because the library's own header is in another order from run to run.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from lorakit.adapter import Array
from lorakit.errors import FormatError, SourceError

DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER = 100_000_000  # bytes; the library's own cap
MAX_TENSORS = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFile:
    """An open, validated file: tensors by name (mapped, read-only) and its string metadata."""

    path: Path
    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]


def open_safetensors(path: Path, *, max_header: int = MAX_HEADER) -> SafetensorsFile:
    """Map a safetensors file whose header is at most `max_header` bytes.

    Raises SourceError where there is none and FormatError where it is broken or truncated.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(8)
            length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
            if not 2 <= length <= size - 8:
                raise FormatError(
                    f"{path} is not a complete safetensors file",
                    items=[f"header of {length} bytes claimed, file of {size} bytes found"],
                    hint="download or copy the file again",
                )
            if length > max_header:
                raise FormatError(
                    f"{path} has a header of {length} bytes; {max_header} is the limit"
                )
            header = file.read(length)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        with safe_open(path, framework="np"):
            pass
        entries = json.loads(header)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{path} is not a valid safetensors file: {error}",
            hint="the file may be truncated: download or copy it again",
        ) from error
    metadata = entries.pop("__metadata__", None) or {}  # mlx writes null where it has none
    if len(entries) > MAX_TENSORS:
        raise FormatError(f"{path} names {len(entries)} tensors; {MAX_TENSORS} is the limit")
    buffer = np.memmap(path, dtype=np.uint8, mode="r") if size > 8 + length else np.empty(0, "u1")
    tensors = {
        name: _view(path, name, entry, buffer[8 + length :]) for name, entry in entries.items()
    }
    return SafetensorsFile(path=path, tensors=tensors, metadata=metadata)


def _view(path: Path, name: str, entry: Mapping[str, Any], data: Array) -> Array:
    """One tensor as a view of the mapped file; the library has validated the entry."""
    if entry["dtype"] not in DTYPES:
        raise FormatError(f"{path}: tensor {name} has the unsupported dtype {entry['dtype']}")
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if begin == end:
        return np.zeros(shape, dtype)
    raw = np.asarray(data[begin:end])
    if raw.ctypes.data % dtype.itemsize:
        raw = raw.copy()  # unaligned data is legal in the format and rare
    return raw.view(dtype).reshape(shape)


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write tensors in the safetensors format: equal arguments give equal bytes.

    Data is ordered by alignment, then name, one tensor in memory at a time. Raises FormatError for
    a dtype that the format lacks.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _dtype_name(name, array),
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)


def _dtype_name(name: str, array: Array) -> str:
    found = _NAMES.get(array.dtype)
    if found is None:
        raise FormatError(f"{name}: safetensors cannot hold the dtype {array.dtype}")
    return found


_NAMES = {dtype: name for name, dtype in DTYPES.items()}
