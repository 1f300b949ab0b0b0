"""Loading a GGUF file into llama.cpp."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lorakit.engines.llama.kernels import amx_verdict
from lorakit.engines.llama.native import captured_log, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import EngineError


def load_model(path: Path, options: LlamaOptions, *, vocabulary_only: bool = False) -> Any:
    """A native model. Raises EngineError with what llama.cpp says of it."""
    api = llama()
    params = api.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.vocab_only = vocabulary_only
    params.use_extra_bufts = not vocabulary_only and _repack(options)
    params.load_mode = 2 if options.mlock else 1 if options.mmap else 0
    with captured_log() as said:
        model = api.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise EngineError(f"llama.cpp cannot load {path}", items=said.reasons)
    return model


def _repack(options: LlamaOptions) -> bool:
    """Whether weights go into the CPU's own layout; see LlamaOptions and kernels."""
    return amx_verdict() != "faulty" if options.repack is None else options.repack
