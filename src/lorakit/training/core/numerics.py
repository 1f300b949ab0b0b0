"""In which numbers this machine trains fastest: tried once, on products of the base's own shape.

What was chosen is remembered in the cache, so that equal runs on one machine give equal bits, and
is a value to be kept with a checkpoint, so that a resumed run computes the same.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every torch program

from lorakit.architectures import Decoder
from lorakit.errors import CapabilityError
from lorakit.files.cache import Memo
from lorakit.training.core.frozen import Frozen, OneDnn, Plain, onednn_linear

DType = Literal["auto", "float32", "bfloat16"]
KEY = 1  # of what is remembered
TOKENS = 256  # rows of the products that are tried
FASTER = 1.05  # what oneDNN must gain
MUCH_FASTER = 1.3  # and bfloat16, which is less exact
TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """dtype: of weights and activations; masters of what is trained are float32 either way.
    onednn: float32 products on a CPU go through oneDNN."""

    dtype: Literal["float32", "bfloat16"]
    onednn: bool = False

    @property
    def torch_dtype(self) -> Any:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]

    @property
    def multiply(self) -> type[Frozen]:
        return OneDnn if self.onednn else Plain


def choose(decoder: Decoder, device: Any, dtype: DType = "auto") -> Numerics:
    """What to train in on a device. Raises CapabilityError for bfloat16 where it cannot be."""
    if device.type != "cpu":
        able = device.type != "cuda" or torch.cuda.is_bf16_supported()
        if dtype == "bfloat16" and not able:
            raise CapabilityError("this GPU has no bfloat16", hint="dtype float32 works")
        auto = device.type == "cuda" and able
        return Numerics(dtype="bfloat16" if dtype == "bfloat16" or (dtype == "auto" and auto)
                        else "float32")  # fmt: skip
    if dtype == "bfloat16":
        return Numerics(dtype="bfloat16")
    onednn, half = _remembered(decoder.hidden, decoder.intermediate)
    if dtype == "auto" and half:
        return Numerics(dtype="bfloat16")
    return Numerics(dtype="float32", onednn=onednn)


def _remembered(inputs: int, outputs: int) -> tuple[bool, bool]:
    """Whether oneDNN gains in float32, and bfloat16 over both."""

    def tried() -> str:
        onednn, full, half = _trial(inputs, outputs)
        return f"{int(onednn)} {int(full > MUCH_FASTER * half)}"

    machine = (torch.__version__, torch.backends.cpu.get_cpu_capability(), platform.processor())
    key = repr((KEY, *machine, platform.node(), torch.get_num_threads(), inputs, outputs))
    onednn, half = Memo("numerics").get(key, tried).split()
    return onednn == "1", half == "1"


def _trial(inputs: int, outputs: int) -> tuple[bool, float, float]:
    """Whether oneDNN is right and faster in float32; seconds of float32 and of bfloat16."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, inputs, generator=made)
    weight = torch.randn(outputs, inputs, generator=made)
    plain = _seconds(lambda: F.linear(x, weight))
    other = _seconds(lambda: onednn_linear(x, weight)) if _right(x, weight) else float("inf")
    x, weight = x.bfloat16(), weight.bfloat16()
    return plain > FASTER * other, min(plain, other), _seconds(lambda: F.linear(x, weight))


def _right(x: Any, weight: Any) -> bool:
    """Whether oneDNN's operator is there and gives both products."""
    try:
        forward = onednn_linear(x, weight)
        backward = onednn_linear(forward, weight.t())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(
        torch.allclose(forward, F.linear(x, weight), rtol=1e-4, atol=1e-3)
        and torch.allclose(backward, forward @ weight, rtol=1e-3, atol=1.0)
    )


def _seconds(product: Callable[[], Any]) -> float:
    product()
    found = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        product()
        found.append(time.perf_counter() - begun)
    return min(found)
