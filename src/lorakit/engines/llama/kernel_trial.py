"""A tiny quantised model run with repacked weights: what kernels.py has a child process do.

Only the child imports this: where the kernels are faulty it ends there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.engines.llama.context import Context, Piece
from lorakit.engines.llama.model import load_model
from lorakit.engines.llama.native import Abort, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.pace import Pace
from lorakit.engines.threads import default_threads
from lorakit.errors import LorakitError
from lorakit.files.gguf import ALIGNMENT, Value
from lorakit.files.gguf_types import stored_size
from lorakit.files.gguf_write import gguf_head, packed

HIDDEN, INNER, VOCABULARY, TOKENS = 64, 128, 64, 40
_Q8_0 = 8  # ggml_type


def run_kernels() -> None:
    """In the child: run a prompt and one token of a tiny Q8_0 model with repacked weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.q8_0.gguf"
        _write_tiny(path)
        _decode(path)


def _decode(path: Path) -> None:
    options = LlamaOptions(repack=True)
    try:
        model = load_model(path, options)
        pace = Pace(default_threads())
        context = Context(
            model, cells=1, slots=2, options=options, pace=pace, outputs=2, abort=Abort()
        )
        slot, result = context.open(), np.empty((1, context.width), np.float32)
        context.decode([Piece(slot, 0, np.arange(TOKENS), [TOKENS - 1])], [result])
        context.decode([Piece(slot, TOKENS, np.arange(1), [0])], [result])
    except LorakitError as error:
        raise SystemExit(1) from error
    if not np.isfinite(result).all():
        raise SystemExit(1)


def _write_tiny(path: Path) -> None:
    """A one-layer Llama with random weights in Q8_0 and no tokenizer."""
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN), "output": (VOCABULARY, HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN), "blk.0.attn_k": (HIDDEN, HIDDEN),
        "blk.0.attn_v": (HIDDEN, HIDDEN), "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (INNER, HIDDEN), "blk.0.ffn_up": (INNER, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, INNER), "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,), "blk.0.ffn_norm": (HIDDEN,),
    }  # fmt: skip
    numbers = {
        "block_count": 1, "context_length": 256, "embedding_length": HIDDEN,
        "feed_forward_length": INNER, "attention.head_count": 2, "vocab_size": VOCABULARY,
    }  # fmt: skip
    values = {
        "general.architecture": Value("str", "llama"),
        **{f"llama.{name}": Value("u32", number) for name, number in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": Value("f32", 1e-6),
        "tokenizer.ggml.model": Value("str", "none"),
    }
    head = {name: packed(value) for name, value in values.items()}
    kinds = [(f"{n}.weight", "F32" if len(s) == 1 else "Q8_0", s) for n, s in shapes.items()]
    with path.open("wb") as file:
        file.write(gguf_head(head, kinds))
        for _, kind, shape in kinds:
            weights = rng.standard_normal(shape, np.float32) / 8
            content = weights.tobytes() if kind == "F32" else _q8_0(weights)
            file.write(content + bytes(-len(content) % ALIGNMENT))


def _q8_0(weights: np.ndarray[Any, Any]) -> bytes:
    rows, columns = weights.shape
    content = np.empty(stored_size("Q8_0", weights.size), np.uint8)
    llama().ggml_quantize_chunk(
        _Q8_0, weights.ctypes.data, content.ctypes.data, 0, rows, columns, None
    )
    return content.tobytes()
