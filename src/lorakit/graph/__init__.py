"""Base -> ONNX: our own graph of a decoder, built without torch, LoRA tensors as its inputs."""

from lorakit.graph.blocks import Window
from lorakit.graph.decoder import (
    VERSION,
    GraphOptions,
    build,
    require_supported,
    wide_modules,
)
from lorakit.graph.head import HeadForm
from lorakit.graph.lora import HEAD, LoraTarget, targets
from lorakit.graph.quantize import Sight, unseen
from lorakit.graph.weights import FileStore, MemoryStore

__all__ = [
    "HEAD",
    "VERSION",
    "FileStore",
    "GraphOptions",
    "HeadForm",
    "LoraTarget",
    "MemoryStore",
    "Sight",
    "Window",
    "build",
    "require_supported",
    "targets",
    "unseen",
    "wide_modules",
]
