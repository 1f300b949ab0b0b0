"""What a user may choose of llama.cpp."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from lorakit.engines.protocol import EngineOptions
from lorakit.errors import ParameterError
from lorakit.values import shown, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions(EngineOptions):
    """What the llama.cpp engine has beyond EngineOptions.

    kv_type "auto" is f32 for a file of float32 weights, which is run for its exactness, and f16
    for all others, as in llama.cpp. flash_attention "auto" is off where the KV cache is f32, as it
    doubles the rounding error of a step, and llama.cpp's choice otherwise: it skips the cells of
    other sequences, which the plain kernel multiplies by nothing.
    """

    mmproj: str | os.PathLike[str] | None = None  # the projector of a vision model
    gpu_layers: int = 0  # layers that a GPU holds; -1 = all
    flash_attention: Literal["off", "on", "auto"] = "auto"  # see below
    kv_type: Literal["auto", "f16", "f32", "q8_0"] = "auto"  # of the KV cache; auto: see below
    mmap: bool = True  # map the file; False reads it into memory
    mlock: bool = False  # keep the weights from being swapped out
    micro_batch: int = 512  # tokens that run at once; an image must fit
    contexts: int = 8  # adapter sets that run side by side, each with a native context
    repack: bool | None = None  # weights in the CPU's own layout; None = where it is safe
    preflight: bool = True  # run a file that was never seen once in a child process first

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        EngineOptions.__post_init__(self)
        faults = [
            f"{name} must be an integer from {low} to {high}, found {shown(value)}"
            for name, low, high in _LIMITS
            if not (whole(value := getattr(self, name)) and low <= value <= high)
        ]
        faults += [
            f"{name} must be one of {', '.join(allowed)}, found {shown(value)}"
            for name, allowed in _CHOICES.items()
            if (value := getattr(self, name)) not in allowed
        ]
        if self.kv_type == "q8_0" and self.flash_attention == "off":
            faults.append('kv_type "q8_0" needs flash_attention="on"')
        if faults:
            raise ParameterError("invalid llama options", items=faults)


_LIMITS = (("gpu_layers", -1, 1 << 16), ("micro_batch", 32, 1 << 16), ("contexts", 1, 256))
_CHOICES = {"flash_attention": ("off", "on", "auto"), "kv_type": ("auto", "f16", "f32", "q8_0")}
