"""The KV cache: one buffer per layer and part, its slots shared out among the open sequences.

Buffers are [slots, kv_heads, capacity, head_dim] floats, in a device's memory. On the host their
pages cost nothing before they are written, so memory follows use. A step over several sequences
needs them in neighbouring slots; `arrange` swaps slots until they are, which happens only when a
batch changes its members. It knows nothing of onnxruntime; lengths are the truth about what a slot
holds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorakit.architectures import Decoder
from lorakit.engines.onnx.device import Buffer, Shape
from lorakit.errors import EngineError

FIRST_CAPACITY = 256  # tokens
FLOAT32: np.dtype[np.floating] = np.dtype(np.float32)


@dataclass(slots=True)
class KVCache:
    """Sequences and their keys and values.

    `buffer` makes one of a `dtype` in a device's memory. `generation` rises whenever they move,
    so that whoever has bound them knows.
    """

    decoder: Decoder
    buffer: Callable[[Shape], Buffer]
    slots: int
    context: int  # most tokens of one sequence
    dtype: np.dtype[np.floating] = FLOAT32
    capacity: int = 0  # tokens that every slot has room for now
    generation: int = 0
    buffers: list[Buffer] = field(default_factory=list)  # key, value, key, ...
    _slot: dict[int, int] = field(default_factory=dict)  # by sequence
    _length: dict[int, int] = field(default_factory=dict)  # by sequence
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def open(self) -> int:
        if len(self._slot) == self.slots:
            raise EngineError(
                f"all {self.slots} sequences are open",
                hint="close one, or raise max_batch or cached_sequences",
            )
        sequence = next(self._ids)
        self._slot[sequence] = min(set(range(self.slots)) - set(self._slot.values()))
        self._length[sequence] = 0
        return sequence

    def close(self, sequence: int) -> None:
        self.length(sequence)
        del self._slot[sequence], self._length[sequence]
        if not self._slot and self.capacity > FIRST_CAPACITY:
            self._resize(0)  # give back what a long sequence took

    def length(self, sequence: int) -> int:
        if sequence not in self._length:
            raise EngineError(f"there is no open sequence {sequence}")
        return self._length[sequence]

    def slot(self, sequence: int) -> int:
        return self._slot[sequence]

    def advance(self, sequence: int, count: int) -> None:
        self._length[sequence] += count

    def truncate(self, sequence: int, length: int) -> None:
        held = self.length(sequence)
        if not 0 <= length <= held:
            raise EngineError(f"cannot truncate to {length}: the sequence holds {held} tokens")
        self._length[sequence] = length

    def fork(self, sequence: int, length: int) -> int:
        held = self.length(sequence)
        if not 0 <= length <= held:
            raise EngineError(f"cannot fork at {length}: the sequence holds {held} tokens")
        copy = self.open()
        source, target = self._slot[sequence], self._slot[copy]
        for buffer in self.buffers:
            buffer.copy(buffer, source, target, length)
        self._length[copy] = length
        return copy

    def save(self, sequence: int) -> bytes:
        """A sequence's keys and values, buffer after buffer."""
        slot, length = self._slot[sequence], self.length(sequence)
        return b"".join(buffer.read(slot, length).tobytes() for buffer in self.buffers)

    def load(self, state: bytes, length: int) -> int:
        """A new sequence from what `save` gave. Raises EngineError where it does not fit."""
        decoder = self.decoder
        shape = (2 * len(decoder.layers), decoder.kv_heads, length, decoder.head_dim)
        if not 0 < length <= self.context or len(state) != self.dtype.itemsize * math.prod(shape):
            raise EngineError("the saved state is of another model, or of another length")
        numbers = np.frombuffer(state, self.dtype)
        if not np.isfinite(numbers).all():
            raise EngineError("the saved state holds numbers that are not finite")
        self.reserve(length)
        sequence = self.open()
        slot = self._slot[sequence]
        for buffer, part in zip(self.buffers, numbers.reshape(shape), strict=True):
            buffer.write(slot, part)
        self._length[sequence] = length
        return sequence

    def reserve(self, length: int) -> None:
        """Make room for sequences of `length` tokens: powers of two, up to the context."""
        if length > self.capacity:
            capacity = max(FIRST_CAPACITY, 1 << (length - 1).bit_length())
            self._resize(min(capacity, self.context))

    def arrange(self, sequences: Sequence[int]) -> tuple[int, list[int]]:
        """Bring sequences into neighbouring slots.

        Returns the first of those slots and, for each slot in turn, the index into `sequences` of
        the one that sits there.
        """
        slots = {self._slot[sequence] for sequence in sequences}
        count = len(sequences)
        first = max(
            range(self.slots - count + 1),
            key=lambda start: (len(slots & set(range(start, start + count))), -start),
        )
        wanted = set(range(first, first + count))
        for have, want in zip(sorted(slots - wanted), sorted(wanted - slots), strict=True):
            self._swap(have, want)
        seat = {self._slot[sequence]: index for index, sequence in enumerate(sequences)}
        return first, [seat[slot] for slot in range(first, first + count)]

    def free(self) -> None:
        self.buffers.clear()
        self._slot.clear()
        self._length.clear()
        self.capacity = 0

    def _swap(self, one: int, other: int) -> None:
        """Exchange two slots, of which one or both hold a sequence."""
        holder = {slot: sequence for sequence, slot in self._slot.items()}
        first, second = (self._length.get(holder.get(slot, 0), 0) for slot in (one, other))
        for buffer in self.buffers:
            buffer.swap(one, other, (first, second))
        for slot, target in ((one, other), (other, one)):
            if slot in holder:
                self._slot[holder[slot]] = target

    def _resize(self, capacity: int) -> None:
        """Move to buffers of another capacity, one at a time, copying what is in use."""
        d = self.decoder
        shape = (self.slots, d.kv_heads, capacity, d.head_dim)
        used = [(self._slot[s], n) for s, n in self._length.items() if n]
        larger = [self.buffer(shape) for _ in range(2 * len(d.layers))]  # all, or none if it fails
        for index, old in enumerate(self.buffers):
            for slot, length in used:
                larger[index].copy(old, slot, slot, length)
            self.buffers[index] = larger[index]
        self.buffers = larger
        self.capacity = capacity
        self.generation += 1
