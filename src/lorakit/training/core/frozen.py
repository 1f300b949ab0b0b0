"""Products with a frozen matrix, forward and back: the gradient of the input alone.

A matrix is [out, in], in whatever memory its module has it. One class for each way to multiply.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every torch program


class Frozen(Protocol):
    """W [out, in], which never changes."""

    def __init__(self, weight: Any) -> None: ...

    def forward(self, x: Any) -> Any:
        """x [n, in] -> x W^T [n, out], memory of its own."""

    def backward(self, gradient: Any) -> Any:
        """gradient [n, out] -> gradient W [n, in], memory of its own."""

    def dense(self) -> Any:
        """W itself."""

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        """a b^T of two other matrices."""


class Plain:
    """Torch's own products."""

    def __init__(self, weight: Any) -> None:
        self._weight = weight

    def forward(self, x: Any) -> Any:
        return F.linear(x, self._weight)

    def backward(self, gradient: Any) -> Any:
        return gradient @ self._weight

    def dense(self) -> Any:
        return self._weight

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return F.linear(a, b)


class OneDnn(Plain):
    """oneDNN's float32 products, which torch has for its own compiler's use: see numerics.py."""

    def forward(self, x: Any) -> Any:
        return onednn_linear(x, self._weight)

    def backward(self, gradient: Any) -> Any:
        return onednn_linear(gradient, self._weight.t())

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return onednn_linear(a, b)


def onednn_linear(x: Any, weight: Any) -> Any:
    """x weight^T through a private operator of torch; AttributeError where it is gone."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, None, "none", [], "")
