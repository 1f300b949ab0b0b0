"""What a user may choose of the torch engine; importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lorakit.engines.protocol import EngineOptions
from lorakit.errors import ParameterError
from lorakit.values import shown

Device = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchOptions(EngineOptions):
    """device: where the model is; None is the CPU."""

    device: Device | None = None

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        EngineOptions.__post_init__(self)
        if self.device is not None and self.device not in get_args(Device):
            names = ", ".join(get_args(Device))
            raise ParameterError(f"device must be one of {names}, found {shown(self.device)}")
