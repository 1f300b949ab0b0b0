"""A base as a GGUF file: what it holds, and the writing, which need no library of llama.cpp.

Whether llama.cpp makes the same tokens of text is asked in tokens.py, which finds one.
"""

from lorakit.exporting.gguf.model import GgufModel, gguf_model, read_vocabulary
from lorakit.exporting.gguf.write import expected_bytes, require_parts, write_gguf

__all__ = [
    "GgufModel",
    "expected_bytes",
    "gguf_model",
    "read_vocabulary",
    "require_parts",
    "write_gguf",
]
