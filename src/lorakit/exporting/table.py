"""The targets of an export, by name."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.exporting.plan import Target
from lorakit.exporting.targets.gguf import Gguf
from lorakit.exporting.targets.mlx import Mlx
from lorakit.exporting.targets.onnx import Onnx
from lorakit.exporting.targets.safetensors import Safetensors

TARGETS: Mapping[str, Target] = {each.name: each for each in (Onnx(), Gguf(), Safetensors(), Mlx())}
