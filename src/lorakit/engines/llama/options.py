"""The options of the llama.cpp engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from lorakit.engines.protocol import EngineOptions
from lorakit.errors import ParameterError
from lorakit.values import shown, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions(EngineOptions):
    """The llama.cpp engine's own options, beside those of EngineOptions.

    kv_type "auto" is f32 for a file with float32 weights, which is run for its exactness, and f16
    for all others, as in llama.cpp. flash_attention "auto" is off if the KV cache is f32, because
    it doubles the rounding error of a step; otherwise llama.cpp chooses. Flash attention is faster
    with several sequences: it skips their cells, where the plain kernel multiplies them by 0.
    """

    mmproj: str | os.PathLike[str] | None = None  # the projector of a vision model
    gpu_layers: int = 0  # layers that a GPU holds; -1 = all
    flash_attention: Literal["off", "on", "auto"] = "auto"  # see above
    kv_type: Literal["auto", "f16", "f32", "q8_0"] = "auto"  # of the KV cache; see above
    mmap: bool = True  # map the file; False reads it into memory
    mlock: bool = False  # keep the weights from being swapped out
    micro_batch: int = 512  # tokens per native batch; an image must fit
    contexts: int = 8  # native contexts, each with an adapter set of its own
    repack: bool | None = None  # repack weights for the CPU; None = if that is safe
    preflight: bool = True  # run a new file once in a child process first

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
