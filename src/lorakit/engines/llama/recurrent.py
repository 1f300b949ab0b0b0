"""The memory of a model with a recurrent state (Mamba, RWKV) or of a hybrid, which has both.

A state is of all tokens so far: no token can be taken out of it, and nothing less than the whole
be shared. So a sequence is reused and copied at its full length alone, and computed again from its
first token where less of it is wanted: the runtime asks what is held before it counts on anything.
Windows of attention need no care here: what has left one is never wanted again.
"""

from __future__ import annotations

from typing import Any

from lorakit.engines.llama.memory import Memory
from lorakit.engines.llama.native import llama
from lorakit.errors import EngineError


def is_recurrent(model: Any) -> bool:
    """Whether some layer of a native model keeps a state instead of the KV of tokens."""
    api = llama()
    return bool(api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model))


class StateMemory(Memory):
    """Slots that are whole or empty. Its methods are documented in Memory."""

    def __init__(self, context: Any, slots: int) -> None:
        super().__init__(context, slots, window=0)

    def whole(self, slot: int, length: int) -> int:
        """All tokens of the sequence, or 0 where fewer are asked for."""
        end = self._end(slot)
        return end if length >= end else 0

    def cut(self, slot: int, length: int) -> None:
        if length and length >= self._end(slot):
            return
        done = not length and self._api.llama_memory_seq_rm(self._native, slot, -1, -1)
        if not done:
            raise EngineError("a recurrent state cannot be cut back")

    def _share(self, slot: int, found: int, length: int) -> None:
        self._copy(slot, found, -1, -1)
