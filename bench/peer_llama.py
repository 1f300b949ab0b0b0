"""llama.cpp's decode speed on the same shape, for bench/decode.py: no adapter, one shared adapter.

It has no mixed batches: rows with different adapters run one after another there, so only these two
cases are measured. Needs lorakit[llama] and a GGUF of the base (and of an adapter).
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Iterator
from typing import Any


def llama_rows(arguments: argparse.Namespace) -> Iterator[str]:
    from lorakit.engines.llama.native import llama

    api = llama()
    parameters = api.llama_model_default_params()
    parameters.use_extra_bufts = False  # AMX buffers crash with some compilers
    model = api.llama_model_load_from_file(str(arguments.gguf).encode(), parameters)
    if not model:
        yield f"llama.cpp: cannot load {arguments.gguf}"
        return
    lora = None
    if arguments.gguf_lora:
        lora = api.llama_adapter_lora_init(model, str(arguments.gguf_lora).encode())
    for batch in arguments.batch:
        for mode in ("base", "shared") if lora else ("base",):
            seconds, cpu = _steps(api, model, lora if mode == "shared" else None, batch, arguments)
            low, middle, high = (value * 1e3 for value in statistics.quantiles(seconds, n=4))
            yield (
                f"| llama.cpp | decode | {batch} | {mode} | {middle:.1f} ({low:.1f}-{high:.1f}) "
                f"| {statistics.median(cpu) * 1e3:.1f} | {batch / middle * 1e3:.0f} | | | |"
            )
    if lora:
        api.llama_adapter_lora_free(lora)
    api.llama_model_free(model)


def _steps(
    api: Any, model: Any, lora: Any, rows: int, arguments: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of decode steps of `rows` sequences at the context asked for."""
    options = api.llama_context_default_params()
    options.n_seq_max = rows
    options.n_ctx = rows * (arguments.context + 64)
    options.n_threads = options.n_threads_batch = arguments.threads or 2
    context = api.llama_init_from_model(model, options)
    if lora:
        pointers = (ctypes.c_void_p * 1)(lora)
        api.llama_set_adapters_lora(context, pointers, 1, (ctypes.c_float * 1)(1.0))
    batch = api.llama_batch_init(max(rows, arguments.context), 0, 1)
    for row in range(rows):
        _fill(batch, [(at, row) for at in range(arguments.context)], logits=False)
        api.llama_decode(context, batch)
    walls, cpus = [], []
    for step in range(24):
        _fill(batch, [(arguments.context + step, row) for row in range(rows)], logits=True)
        wall, cpu = time.perf_counter(), time.process_time()
        api.llama_decode(context, batch)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    api.llama_batch_free(batch)
    api.llama_free(context)
    return walls[2:], cpus[2:]


def _fill(batch: Any, places: list[tuple[int, int]], *, logits: bool) -> None:
    """One token per (position, sequence)."""
    batch.n_tokens = len(places)
    for at, (position, sequence) in enumerate(places):
        batch.token[at] = 5 + position % 100
        batch.pos[at] = position
        batch.n_seq_id[at] = 1
        batch.seq_id[at][0] = sequence
        batch.logits[at] = logits
