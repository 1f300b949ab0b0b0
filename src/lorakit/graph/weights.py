"""Where a graph's weights go while it is built: into one file beside it, or into memory.

One tensor at a time passes through here, so building needs about one tensor of memory. Both stores
give ONNX external data; what they differ in is who holds the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.files.mapped import release

ALIGNMENT = 4096  # bytes: lets onnxruntime map tensors straight from the file
BLOCK_BYTES = 8 << 20  # float32 bytes of a weight that are in work at a time
INLINE = 1024  # bytes: smaller tensors live in the graph itself
WEIGHTS_FILE = "weights.bin"
ONNX_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
}


class Store(Protocol):
    """Takes tensors and says where their bytes are."""

    @property
    def location(self) -> str:
        """The name of the file that the bytes are in, for the graph."""
        ...

    def put(self, name: str, array: Array) -> tuple[int, int]:
        """Keep a tensor; returns its offset and length in bytes."""
        ...

    def extend(self, name: str, array: Array) -> int:
        """Keep what follows of the tensor that was put last; returns its length in bytes."""
        ...


class FileStore:
    """Appends tensors to a file in a folder. Raises OSError where the disk is full."""

    def __init__(self, folder: Path, name: str = WEIGHTS_FILE) -> None:
        self.location = name
        self._file = (folder / name).open("wb")

    def put(self, name: str, array: Array) -> tuple[int, int]:
        self._file.seek(-self._file.tell() % ALIGNMENT, 1)
        return self._file.tell(), self.extend(name, array)

    def extend(self, name: str, array: Array) -> int:
        self._file.write(array.reshape(-1).view(np.uint8).data)
        return array.nbytes

    def close(self) -> None:
        """Raises OSError unless everything is on the disk."""
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())


@dataclass(slots=True)
class MemoryStore:
    """Keeps tensors as arrays by name, for opening a session without a disk."""

    arrays: dict[str, Array] = field(default_factory=dict)
    location: str = WEIGHTS_FILE

    def put(self, name: str, array: Array) -> tuple[int, int]:
        self.arrays[name] = array
        return 0, array.nbytes

    def extend(self, name: str, array: Array) -> int:
        self.arrays[name] = np.concatenate([self.arrays[name], array])
        return array.nbytes


def to_proto(name: str, array: Array, store: Store) -> onnx.TensorProto:
    """A tensor as an initializer: small ones inline, the rest as external data in the store."""
    array = np.ascontiguousarray(array)
    proto = onnx.TensorProto(name=name, data_type=ONNX_TYPES[array.dtype], dims=array.shape)
    if array.nbytes <= INLINE:
        proto.raw_data = array.tobytes()
        return proto
    return _stored(proto, store, *store.put(name, array))


def rows_to_proto(name: str, parts: Iterable[Array], store: Store) -> onnx.TensorProto:
    """A tensor from its rows in parts, of which one at a time is in memory, as external data."""
    proto, count, offset, length = onnx.TensorProto(name=name), 0, 0, 0
    for part in parts:
        part = np.ascontiguousarray(part)
        if not count:
            proto.data_type = ONNX_TYPES[part.dtype]
            offset, length = store.put(name, part)
        else:
            length += store.extend(name, part)
        count += len(part)
    proto.dims.extend([count, *part.shape[1:]])
    return _stored(proto, store, offset, length)


def _stored(proto: onnx.TensorProto, store: Store, offset: int, length: int) -> onnx.TensorProto:
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", store.location), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def parts(weight: Array) -> Iterator[slice]:
    """Outputs of a weight that are worked on together; a mapped file's leave memory afterwards."""
    step = max(1, BLOCK_BYTES // (4 * weight.shape[1]))
    for begin in range(0, len(weight), step):
        yield slice(begin, begin + step)
        release(weight[begin : begin + step])


def transposed(weight: Array, dtype: type[np.generic]) -> Array:
    """[in, out] in a dtype, converted in parts so that little beside the result is in memory."""
    result = np.empty(weight.shape[::-1], dtype)
    for rows in parts(weight):
        result[:, rows] = np.ascontiguousarray(weight[rows].T)
    return result
