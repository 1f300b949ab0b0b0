"""Where a session runs, and the memory there that the KV cache lies in.

A second device is another `Device`. Its buffers are its own: the KV cache moves what they hold by
the methods of `Buffer` alone, and onnxruntime is given their addresses.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from lorakit.errors import EngineError

Floats = npt.NDArray[np.floating]
Shape = tuple[int, int, int, int]


class Buffer(Protocol):
    """The keys or values of a layer: [slots, kv_heads, capacity, head_dim], contiguous.

    A slot's tokens are counted from its beginning. Arrays are the host's: [kv_heads, tokens,
    head_dim].
    """

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """float32, or float16 where a graph's hidden states are."""
        ...

    def address(self, slot: int) -> int:
        """Where a slot begins in the device's memory, in bytes."""
        ...

    def copy(self, source: Self, slot: int, target: int, length: int) -> None:
        """The first tokens of a slot of `source`, or of this buffer, to the slot `target`."""
        ...

    def swap(self, one: int, other: int, lengths: tuple[int, int]) -> None:
        """Exchange two slots that hold so many tokens."""
        ...

    def read(self, slot: int, length: int) -> Floats: ...

    def write(self, slot: int, tokens: Floats) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device in onnxruntime's words.

    provider: its execution provider. name, index: of its memory. buffer: makes a buffer there;
    raises EngineError (`out_of_memory`).
    """

    provider: str
    name: str
    index: int = 0
    buffer: Callable[[Shape], Buffer]


@dataclass(frozen=True, slots=True)
class HostBuffer:
    """A buffer in the host's memory, whose pages appear one by one when they are written."""

    array: Floats

    @classmethod
    def untouched(cls, shape: Shape, dtype: npt.DTypeLike = np.float32) -> HostBuffer:
        """Zeros. Not numpy's own: it asks for huge pages, of which one would hold many slots."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return cls(np.zeros(shape, dtype))
        try:
            return cls(np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape))
        except (OSError, MemoryError) as error:
            raise EngineError(
                f"no memory for a KV cache of {list(shape)} per layer: {error}",
                code="out_of_memory",
                hint="lower context, max_batch or cached_sequences",
            ) from error

    @property
    def shape(self) -> Shape:
        slots, heads, capacity, dim = self.array.shape
        return slots, heads, capacity, dim

    @property
    def dtype(self) -> np.dtype[np.floating]:
        return self.array.dtype

    def address(self, slot: int) -> int:
        return int(self.array.__array_interface__["data"][0]) + slot * self.array.strides[0]

    def copy(self, source: HostBuffer, slot: int, target: int, length: int) -> None:
        self.array[target, :, :length] = source.array[slot, :, :length]

    def swap(self, one: int, other: int, lengths: tuple[int, int]) -> None:
        first, second = lengths
        kept = self.array[other, :, :second].copy()
        self.array[other, :, :first] = self.array[one, :, :first]
        self.array[one, :, :second] = kept

    def read(self, slot: int, length: int) -> Floats:
        return self.array[slot, :, :length]

    def write(self, slot: int, tokens: Floats) -> None:
        self.array[slot, :, : tokens.shape[1]] = tokens


CPU = Device(provider="CPUExecutionProvider", name="cpu", buffer=HostBuffer.untouched)
HOST = CPU  # where numpy's arrays lie
