"""Loading a GGUF file into llama.cpp."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Literal

from lorakit.engines.llama.kernels import amx_verdict
from lorakit.engines.llama.native import captured_log, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import EngineError
from lorakit.files.gguf_parts import open_gguf_model

Factors = Literal["", "short", "long"]
_TWO_FACTORS = ("llama", "phi3")  # architectures whose files may have both lists
_ORIGINAL = "rope.scaling.original_context_length"
_MOST = (1 << 31) - 1


def load_model(
    path: Path,
    options: LlamaOptions,
    *,
    vocabulary_only: bool = False,
    architecture: str = "",
    factors: Factors = "",
) -> Any:
    """A native model: of the file, and of all parts of which it is the first.

    Raises EngineError with llama.cpp's log.

    factors: see `rope_factors`; they need `architecture`, its name in the file.
    """
    api = llama()
    params = api.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.vocab_only = vocabulary_only
    params.use_extra_bufts = not vocabulary_only and repacks(options)
    params.load_mode = 2 if options.mlock else 1 if options.mmap else 0
    if factors:
        overrides = (api.llama_model_kv_override * 2)()  # the second, without a key, ends them
        overrides[0].key = f"{architecture}.{_ORIGINAL}".encode()
        overrides[0].value.val_i64 = 1 if factors == "long" else _MOST
        params.kv_overrides = ctypes.addressof(overrides)
    with captured_log() as native_log:
        model = api.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EngineError(f"llama.cpp cannot load {path}", items=native_log.reasons)
    return model


def rope_factors(path: Path, architecture: str, context: int) -> Factors:
    """Which of a file's two lists of RoPE factors to use for a context of so many tokens.

    llama.cpp chooses by the number of cells of a native context, which here depends on the other
    sequences. The model means the length it is used with. Empty if the file lacks either list.
    """
    if architecture not in _TWO_FACTORS:
        return ""
    file = open_gguf_model(path)
    if not {"rope_factors_long.weight", "rope_factors_short.weight"} <= set(file.tensors):
        return ""
    original = file.values.get(f"{architecture}.{_ORIGINAL}")
    trained = file.values.get(f"{architecture}.context_length")
    limit = original or trained
    return "long" if limit is not None and context > int(limit.data) else "short"


def repacks(options: LlamaOptions) -> bool:
    """Whether weights are repacked for the CPU; see LlamaOptions and kernels."""
    return amx_verdict() != "faulty" if options.repack is None else options.repack
