"""GGUF adapters of llama.cpp: one file with a low-rank pair for each tensor of the base."""

from lorakit.formats.gguf.express import cannot_express
from lorakit.formats.gguf.read import read_gguf
from lorakit.formats.gguf.write import write_gguf

__all__ = ["cannot_express", "read_gguf", "write_gguf"]
