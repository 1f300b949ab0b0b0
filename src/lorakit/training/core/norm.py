"""RMS norms that are not trained: fewer passes than their modules make, and less kept for the way
back (Zhang and Sennrich 2019). Computed in float32 or wider, as the modules of transformers do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Norm(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """x / |x| * weight, where |x| is the root of the mean square over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, eps: float) -> Any:
        size = x.shape[-1] ** -0.5
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=weight.dtype)
        inverse = length.mul_(size).square_().add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight, inverse = ctx.saved_tensors
        plain = x * inverse
        found = gradient * weight
        along = (found * plain).mean(-1, keepdim=True)
        return found.sub_(plain.mul_(along)).mul_(inverse).to(x.dtype), None, None


class Norm(nn.Module):  # type: ignore[misc]  # torch is not followed
    """offset: what the stored weight lacks."""

    def __init__(self, weight: Any, offset: float, eps: float) -> None:
        super().__init__()
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.weight, self.eps = weight.detach().to(wide) + offset, eps

    def forward(self, x: Any) -> Any:
        return _Norm.apply(x, self.weight, self.eps)
