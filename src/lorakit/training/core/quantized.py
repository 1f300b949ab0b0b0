"""Frozen matrices in four bits, by bitsandbytes, as QLoRA has them (Dettmers et al. 2023)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch.nn.functional as F  # noqa: N812  # its name in every torch program

from lorakit.errors import MissingExtraError


class Nf4:
    """W in NF4 with doubly quantised scales; made dense again for each product."""

    def __init__(self, weight: Any) -> None:
        self._library = bitsandbytes()
        self._packed, self._state = self._library.quantize_4bit(
            weight.contiguous(), quant_type="nf4", compress_statistics=True
        )

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.dense())

    def backward(self, gradient: Any) -> Any:
        return gradient @ self.dense()

    def dense(self) -> Any:
        return self._library.dequantize_4bit(self._packed, self._state)

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return F.linear(a, b)


def bitsandbytes() -> Any:
    """The library's functions. Raises MissingExtraError."""
    try:
        return import_module("bitsandbytes.functional")
    except ImportError as error:
        raise MissingExtraError(
            "training over a base in four bits needs bitsandbytes",
            hint="pip install bitsandbytes",
        ) from error
