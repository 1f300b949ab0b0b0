"""What a user may choose of the ONNX engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from lorakit.engines.protocol import EngineOptions
from lorakit.errors import ParameterError
from lorakit.values import shown

Quantization = Literal["none", "fp16", "int8", "int4"]
CALIBRATED = ("int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions(EngineOptions):
    """quantize: the form of the weights; "none" is float32.

    calibration: a text file in UTF-8 whose like the model will read, for "int8" and "int4"; a few
    kilobytes are enough. None is a text of our own, in several languages, with code and tool calls.
    """

    quantize: Quantization = "none"
    calibration: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        EngineOptions.__post_init__(self)
        if self.quantize not in get_args(Quantization):
            names = ", ".join(get_args(Quantization))
            raise ParameterError(f"quantize must be one of {names}, found {shown(self.quantize)}")
        if self.calibration is not None and self.quantize not in CALIBRATED:
            raise ParameterError(
                f"calibration is for weights of 8 and 4 bits, and quantize is {self.quantize}",
                hint='quantize="int8", or leave calibration out',
            )
