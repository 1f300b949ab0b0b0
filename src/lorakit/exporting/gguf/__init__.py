"""A base as a GGUF file: what it holds, the tokens that llama.cpp makes of text, the writing."""

from lorakit.exporting.gguf.model import GgufModel, gguf_model
from lorakit.exporting.gguf.tokens import require_same_ids, trial_vocabulary
from lorakit.exporting.gguf.write import expected_bytes, write_gguf

__all__ = [
    "GgufModel",
    "expected_bytes",
    "gguf_model",
    "require_same_ids",
    "trial_vocabulary",
    "write_gguf",
]
