"""Base -> ONNX: our own graph of a decoder, built without torch, LoRA tensors as its inputs."""

from lorakit.graph.blocks import Window
from lorakit.graph.decoder import VERSION, GraphOptions, build, require_supported
from lorakit.graph.lora import HEAD, LoraTarget, targets
from lorakit.graph.weights import FileStore, MemoryStore

__all__ = [
    "HEAD",
    "VERSION",
    "FileStore",
    "GraphOptions",
    "LoraTarget",
    "MemoryStore",
    "Window",
    "build",
    "require_supported",
    "targets",
]
