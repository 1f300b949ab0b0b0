"""llama.cpp through its own low-level calls, as bench/llama.py compares it with lorakit's engine.

A minimal loop and nothing else: fill a batch, decode it, take the best token of each row.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorakit.engines.llama.native import llama

Adapters = Sequence[tuple[Any, float]]


class Peer:
    """One native context."""

    def __init__(
        self, model: Any, *, rows: int, cells: int, threads: int, like_ours: bool = True
    ) -> None:
        """like_ours: KV cache and attention as LlamaOptions has them; else llama.cpp's defaults."""
        self.api = api = llama()
        options = api.llama_context_default_params()
        options.n_seq_max = rows
        options.n_ctx = cells
        options.n_threads = options.n_threads_batch = threads
        if like_ours:
            options.flash_attn_type = -1
            options.kv_unified = options.swa_full = options.no_perf = True
            options.n_batch = options.n_ubatch = 512
        self.context = api.llama_init_from_model(model, options)
        self.memory = api.llama_get_memory(self.context)
        self.width = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self.batch = api.llama_batch_init(2048, 0, 1)

    def use(self, adapters: Adapters) -> None:
        pointers = (ctypes.c_void_p * len(adapters))(*(adapter for adapter, _ in adapters))
        scales = (ctypes.c_float * len(adapters))(*(scale for _, scale in adapters))
        self.api.llama_set_adapters_lora(self.context, pointers, len(adapters), scales)

    def fill(self, row: int, tokens: Sequence[int]) -> None:
        """A prompt, without logits."""
        for start in range(0, len(tokens), 512):
            part = tokens[start : start + 512]
            self._decode([(int(t), start + i, row, False) for i, t in enumerate(part)])

    def step(self, tokens: Sequence[int], position: int, *, first: int = 0) -> list[int]:
        """One token for each row from `first` on; returns the best next ones."""
        self._decode([(t, position, first + i, True) for i, t in enumerate(tokens)])
        return [self._best(i) for i in range(len(tokens))]

    def forget(self, row: int, start: int) -> None:
        self.api.llama_memory_seq_rm(self.memory, row, start, -1)

    def share(self, row: int, other: int, length: int) -> None:
        self.api.llama_memory_seq_cp(self.memory, row, other, 0, length)

    def _decode(self, places: list[tuple[int, int, int, bool]]) -> None:
        batch = self.batch
        batch.n_tokens = len(places)
        for at, (token, position, row, wanted) in enumerate(places):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = row
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode gave {code}")

    def _best(self, at: int) -> int:
        logits = self.api.llama_get_logits_ith(self.context, at)
        return int(np.ctypeslib.as_array(logits, (self.width,)).argmax())

    def close(self) -> None:
        self.use(())
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)
