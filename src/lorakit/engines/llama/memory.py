"""The KV cache of one native context: which slots are in use, and what llama.cpp holds for them.

Before each fork, cut or copy llama.cpp is asked what a slot really holds. This module knows nothing
of adapters, of decoding or of the engine's sequences.

With sliding-window attention, llama.cpp reuses cells that have left the window of the only sequence
holding them, and leaves them out of saved states. So each slot then has a shadow, a second native
sequence that holds the same cells, and states are saved in pieces no longer than the window. No
cell is dropped, and none is copied for it.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

from lorakit.engines.llama.native import captured_log, llama
from lorakit.errors import EngineError

log = logging.getLogger("lorakit.llama")


def most_slots(window: int) -> int:
    """The limit on slots; llama.cpp's limit on sequences also counts shadows and the spare."""
    most = int(llama().llama_max_parallel_sequences())
    return (most - 1) // 2 if window else most


def native_sequences(slots: int, window: int) -> int:
    """n_seq_max of a context. States can be written of sequences below it, so it counts the spare.

    Shadows are numbered above it: they hold cells, and need no memory for outputs.
    """
    return slots + 1 if window else slots


class Memory:
    """The slots of a native context. Emptying a slot is retried later if it fails."""

    def __init__(self, context: Any, slots: int, window: int) -> None:
        """window: tokens in the narrowest attention window of any layer; 0 if there is none."""
        self._api = llama()
        self._context = context
        self._native = self._api.llama_get_memory(context)
        self._window = window
        self._spare = slots  # a native sequence to save and load pieces of states with
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._left: dict[int, int] = {}  # tokens left in closed slots, by slot

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    @property
    def pins(self) -> bool:
        """Whether `pin` is needed."""
        return bool(self._window)

    @property
    def lost(self) -> int:
        """Tokens that closed slots still hold."""
        return sum(self._left.values())

    def open(self) -> int:
        """A free slot. Raises EngineError if there is none."""
        for slot, length in list(self._left.items()):
            self.close(slot, length)
        if not self._free:
            raise EngineError("no sequence of the native context is free")
        return self._free.pop()

    def close(self, slot: int, length: int) -> None:
        """Free a slot of about `length` tokens. Never raises."""
        try:
            self.cut(slot, 0)
        except Exception as error:  # the caller could do nothing about it
            if slot not in self._left:
                log.error("llama.cpp cannot empty a sequence, trying again later: %s", error)
            self._left[slot] = length
        else:
            self._left.pop(slot, None)
            self._free.append(slot)

    def whole(self, slot: int, length: int) -> int:
        """How many of the first `length` tokens every layer holds: all up to the sequence's end, or
        0 if its beginning is missing."""
        names = self._names(slot)
        if any(self._api.llama_memory_seq_pos_min(self._native, name) > 0 for name in names):
            return 0
        return min(length, *(self._end(name) for name in names))

    def cut(self, slot: int, length: int) -> None:
        """Remove all but the first `length` tokens. Raises EngineError if that fails; the slot's
        content is then undefined, and it can only be closed."""
        for name in self._names(slot):
            done = self._api.llama_memory_seq_rm(self._native, name, length, -1)
            if not done or self._end(name) > length:
                raise EngineError("llama.cpp cannot cut the KV of a sequence back")

    def pin(self, slot: int, start: int, end: int) -> None:
        """After a decode: add the new cells to the shadow."""
        if self._window:
            self._copy(slot, self._shadow(slot), start, end)

    def fork(self, slot: int, length: int) -> int:
        """A new slot that shares the cells of the first `length` tokens; nothing is copied."""
        found = self.open()
        try:
            if length:
                self._share(slot, found, length)
            self._require(found, length)
        except BaseException:
            self.close(found, length)
            raise
        return found

    def _share(self, slot: int, found: int, length: int) -> None:
        for name in self._names(found):
            self._copy(slot, name, 0, length)

    def save(self, slot: int, length: int) -> list[bytes]:
        """The KV of the first `length` tokens in llama.cpp's format, in pieces (see `pieces`)."""
        self._require(slot, length)
        if not self._window:
            return [self._read(slot)] if length else []
        return [self._read_part(slot, start, end) for start, end in self.pieces(length)]

    def load(self, slot: int, states: Sequence[bytes], length: int) -> None:
        """Load what `save` returned into an empty slot. Raises EngineError if it does not fit; the
        slot can then only be closed."""
        if not self._window:
            if states:
                self._write(slot, states[0])
        else:
            for (start, end), state in zip(self.pieces(length), states, strict=True):
                self._write_part(slot, state, start, end)
        self._require(slot, length)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """The ranges in which a state of `length` tokens is saved: at most a window each."""
        step = self._window or max(length, 1)
        return [(at, min(at + step, length)) for at in range(0, length, step)]

    def _read_part(self, slot: int, start: int, end: int) -> bytes:
        self._empty_spare()
        try:
            self._copy(slot, self._spare, start, end)
            self._require_spare(start, end)
            return self._read(self._spare)
        finally:
            self._empty_spare()

    def _write_part(self, slot: int, state: bytes, start: int, end: int) -> None:
        self._empty_spare()
        try:
            self._write(self._spare, state)
            self._require_spare(start, end)
            for name in self._names(slot):
                self._copy(self._spare, name, start, end)
            self._require(slot, end)
        finally:
            self._empty_spare()

    def _empty_spare(self) -> None:
        self._api.llama_memory_seq_rm(self._native, self._spare, 0, -1)
        if self._end(self._spare):
            raise EngineError("llama.cpp cannot empty a sequence")

    def _require_spare(self, start: int, end: int) -> None:
        first = int(self._api.llama_memory_seq_pos_min(self._native, self._spare))
        if (first, self._end(self._spare)) != (start, end):
            raise EngineError(f"llama.cpp does not hold tokens {start} to {end} of a sequence")

    def _read(self, name: int) -> bytes:
        size = self._api.llama_state_seq_get_size(self._context, name)
        buffer = (ctypes.c_uint8 * size)()
        with captured_log() as native_log:
            written = self._api.llama_state_seq_get_data(self._context, buffer, size, name)
        if not written or written != size:
            raise EngineError(
                "llama.cpp cannot save the KV of a sequence", items=native_log.reasons
            )
        return bytes(memoryview(buffer))

    def _write(self, name: int, state: bytes) -> None:
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        with captured_log() as native_log:
            read = self._api.llama_state_seq_set_data(self._context, buffer, len(state), name)
        if read != len(state):
            raise EngineError(
                "llama.cpp cannot restore the KV of a sequence", items=native_log.reasons
            )

    def _require(self, slot: int, length: int) -> None:
        found = self.whole(slot, length + 1)
        if found != length:
            raise EngineError(f"llama.cpp holds {found} tokens of a sequence, expected {length}")

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        self._api.llama_memory_seq_cp(self._native, source, target, start, end)

    def _end(self, name: int) -> int:
        return int(self._api.llama_memory_seq_pos_max(self._native, name)) + 1

    def _names(self, slot: int) -> tuple[int, ...]:
        return (slot, self._shadow(slot)) if self._window else (slot,)

    def _shadow(self, slot: int) -> int:
        return self._slots + 1 + slot
