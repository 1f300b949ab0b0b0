"""The KV cache of one native context: which slots are taken, and what llama.cpp holds for them.

What a slot holds is asked of llama.cpp whenever something is built on it: a fork, a cut, a copy.
This module knows nothing of adapters, of decoding or of the sequences that users see.

Where a model's layers attend to a window, llama.cpp takes cells that lie behind a sequence's
window for others, if one sequence alone holds them, and leaves them out of saved states. So each
slot has a shadow there, a second native sequence that holds the same cells, and states are saved
in pieces no longer than the window: nothing is dropped, and nothing is copied for it.
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
    """How many slots a context may have: llama.cpp counts its sequences, shadows and the spare."""
    most = int(llama().llama_max_parallel_sequences())
    return (most - 1) // 2 if window else most


def native_sequences(slots: int, window: int) -> int:
    """n_seq_max of a context: states are written of the sequences below it, the spare among them.

    Shadows lie above it, where a sequence may hold cells and costs no memory for outputs.
    """
    return slots + 1 if window else slots


class Memory:
    """The slots of a native context. One that cannot be emptied is left, and tried again later."""

    def __init__(self, context: Any, slots: int, window: int) -> None:
        """window: tokens that the layers with the narrowest attention see; 0 where all see all."""
        self._api = llama()
        self._context = context
        self._native = self._api.llama_get_memory(context)
        self._window = window
        self._spare = slots  # the native sequence through which pieces of states go
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._left: dict[int, int] = {}  # closed slots that are not empty, with their tokens

    @property
    def free(self) -> int:
        """How many slots can be opened."""
        return len(self._free)

    @property
    def pins(self) -> bool:
        """Whether `pin` does anything."""
        return bool(self._window)

    @property
    def lost(self) -> int:
        """Tokens that closed slots still hold."""
        return sum(self._left.values())

    def open(self) -> int:
        """A free slot. Raises EngineError where there is none."""
        for slot, length in list(self._left.items()):
            self.close(slot, length)
        if not self._free:
            raise EngineError("no sequence of the native context is free")
        return self._free.pop()

    def close(self, slot: int, length: int) -> None:
        """Give a slot of about so many tokens back. Never raises."""
        try:
            self.cut(slot, 0)
        except Exception as error:  # whatever it is, the caller can do nothing about it
            if slot not in self._left:
                log.error("a sequence of llama.cpp cannot be emptied and is left: %s", error)
            self._left[slot] = length
        else:
            self._left.pop(slot, None)
            self._free.append(slot)

    def whole(self, slot: int, length: int) -> int:
        """How many of the first `length` tokens are there in every layer: all of them up to where
        the sequence ends, or none."""
        names = self._names(slot)
        if any(self._api.llama_memory_seq_pos_min(self._native, name) > 0 for name in names):
            return 0
        return min(length, *(self._end(name) for name in names))

    def cut(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens. Raises EngineError where that fails; then what
        the slot holds is open, and it can only be closed."""
        for name in self._names(slot):
            done = self._api.llama_memory_seq_rm(self._native, name, length, -1)
            if not done or self._end(name) > length:
                raise EngineError(
                    "this model's memory cannot forget a part of a sequence",
                    hint="recurrent models are not supported",
                )

    def pin(self, slot: int, start: int, end: int) -> None:
        """After a decode: let the shadow hold the new cells too."""
        if self._window:
            self._copy(slot, self._shadow(slot), start, end)

    def fork(self, slot: int, length: int) -> int:
        """A new slot that shares the cells of the first `length` tokens; nothing is copied."""
        found = self.open()
        try:
            if length:
                for name in self._names(found):
                    self._copy(slot, name, 0, length)
            self._require(found, length)
        except BaseException:
            self.close(found, length)
            raise
        return found

    def save(self, slot: int, length: int) -> list[bytes]:
        """The first `length` tokens in llama.cpp's own form, in pieces (see `pieces`)."""
        self._require(slot, length)
        if not self._window:
            return [self._read(slot)] if length else []
        return [self._read_part(slot, start, end) for start, end in self.pieces(length)]

    def load(self, slot: int, states: Sequence[bytes], length: int) -> None:
        """Put what `save` gave into an empty slot. Raises EngineError where it does not fit; then
        the slot is as after a failed cut."""
        if not self._window:
            if states:
                self._write(slot, states[0])
        else:
            for (start, end), state in zip(self.pieces(length), states, strict=True):
                self._write_part(slot, state, start, end)
        self._require(slot, length)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Where a state of so many tokens is cut: at most a window each, which keeps it whole."""
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
            raise EngineError("llama.cpp does not forget a sequence")

    def _require_spare(self, start: int, end: int) -> None:
        first = int(self._api.llama_memory_seq_pos_min(self._native, self._spare))
        if (first, self._end(self._spare)) != (start, end):
            raise EngineError(f"llama.cpp holds other tokens than {start} to {end} of a sequence")

    def _read(self, name: int) -> bytes:
        size = self._api.llama_state_seq_get_size(self._context, name)
        buffer = (ctypes.c_uint8 * size)()
        with captured_log() as said:
            written = self._api.llama_state_seq_get_data(self._context, buffer, size, name)
        if not written or written != size:
            raise EngineError("llama.cpp cannot save the KV of a sequence", items=said.reasons)
        return bytes(memoryview(buffer))

    def _write(self, name: int, state: bytes) -> None:
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        with captured_log() as said:
            read = self._api.llama_state_seq_set_data(self._context, buffer, len(state), name)
        if read != len(state):
            raise EngineError("llama.cpp cannot restore the KV of a sequence", items=said.reasons)

    def _require(self, slot: int, length: int) -> None:
        found = self.whole(slot, length + 1)
        if found != length:
            raise EngineError(
                f"llama.cpp holds {found} tokens of a sequence, where {length} are wanted"
            )

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        self._api.llama_memory_seq_cp(self._native, source, target, start, end)

    def _end(self, name: int) -> int:
        return int(self._api.llama_memory_seq_pos_max(self._native, name)) + 1

    def _names(self, slot: int) -> tuple[int, ...]:
        return (slot, self._shadow(slot)) if self._window else (slot,)

    def _shadow(self, slot: int) -> int:
        return self._slots + 1 + slot
