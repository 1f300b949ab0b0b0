"""What the tests of the llama.cpp engine share: small GGUF bases, adapters, helpers."""

from pathlib import Path

import numpy as np

from lorakit.adapter import Adapter
from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.protocol import Row
from lorakit.formats import read_adapter

TRUTH = Path(__file__).parents[2] / "data" / "truth"
NATIVE = ("gpu_layers", "flash_attention", "kv_type", "micro_batch", "contexts", "mmap", "mlock")


def base_file(name: str) -> Path:
    return TRUTH / "gguf" / f"{name}.base.f32.gguf"


def open_engine(name: str, **options) -> LlamaEngine:
    return open_file(base_file(name), **options)


def open_file(path: Path, **options) -> LlamaEngine:
    native = {key: options.pop(key) for key in NATIVE if key in options}
    base = open_gguf_base(path)
    return LlamaEngine(base, LlamaOptions(threads=1, **options, **native))


def truth_adapter(name: str, adapter: str) -> Adapter:
    return read_adapter(TRUTH / "peft" / name / adapter)


def row(sequence: int, tokens, adapters=(), logits="all") -> Row:
    return Row(
        sequence=sequence, tokens=np.asarray(tokens, np.int64), adapters=adapters, logits=logits
    )


def logits_of(engine, tokens, adapters=()) -> np.ndarray:
    """Logits of every position of a fresh sequence."""
    sequence = engine.open_sequence()
    try:
        return engine.forward([row(sequence, tokens, adapters)])[0].copy()
    finally:
        engine.close_sequence(sequence)


def make_engine(projector=None, **native) -> LlamaEngine:
    """The tiny Gemma 3, and its projector where one is given."""
    engine = open_engine("gemma3", context=256, max_batch=4, cached_sequences=4, **native)
    if projector:
        engine.open_vision(Path(projector))
    return engine
