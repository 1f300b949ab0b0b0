"""What a user may choose of the ONNX engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lorakit.engines.protocol import EngineOptions
from lorakit.errors import ParameterError
from lorakit.values import shown

Quantization = Literal["none", "fp16", "int8", "int4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions(EngineOptions):
    """quantize: the form of the weights; "none" is float32."""

    quantize: Quantization = "none"

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        EngineOptions.__post_init__(self)
        if self.quantize not in get_args(Quantization):
            names = ", ".join(get_args(Quantization))
            raise ParameterError(f"quantize must be one of {names}, found {shown(self.quantize)}")
