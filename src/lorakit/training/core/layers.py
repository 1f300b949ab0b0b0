"""The modules that take the place of linear layers and of the token table while an adapter trains.

    LoRA (Hu et al. 2021): y = W x + bias + s B (A x)
    DoRA (Liu et al. 2024): y = g (W x + s B (A x)) + bias, where g = m / |W + s B A|

As in PEFT, DoRA's norm has no gradient. A and B are float32 masters; products are of the input's
dtype. W has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every torch program
from torch import nn

from lorakit.training.core.frozen import Frozen


@dataclass(slots=True, kw_only=True, eq=False)
class Step:
    """What the layers of a model must know of the step that runs: the scale of each companion, a
    number or, where examples differ, one by token [tokens, 1]; a scale of 0 is left out. Which
    tokens are read after the last layer, and whether layers are computed twice (see memory.py)."""

    scales: dict[str, Any] = field(default_factory=dict)
    read: Any = None
    twice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fixed:
    """A low-rank term that is not trained: a companion's, or what PiSSA began with (no name)."""

    a: Any
    b: Any
    scale: float
    companion: str | None = None

    def added(self, x: Any, step: Step) -> Any:
        """None where the companion is not on."""
        scale = 1.0 if self.companion is None else step.scales.get(self.companion)
        if scale is None:
            return None
        low = F.linear(x, self.a) * (scale * self.scale)
        return F.linear(low.to(x.dtype), self.b)


class _LowRank(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """W x + s B (A x) of x [n, in]; A and B of x's dtype."""

    @staticmethod
    def forward(ctx: Any, x: Any, a: Any, b: Any, frozen: Frozen, scale: float) -> Any:
        low = frozen.times(x, a)
        ctx.save_for_backward(x, low, a, b)
        ctx.frozen, ctx.scale = frozen, scale
        return frozen.forward(x).addmm_(low, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, low, a, b = ctx.saved_tensors
        times = ctx.frozen.times
        of_low = times(gradient, b.t()).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = ctx.frozen.backward(gradient).addmm_(of_low, a)
        of_b = times(low.t(), gradient.t()).t().mul_(ctx.scale)  # the narrow one first is faster
        return of_x, times(of_low.t(), x.t()), of_b, None, None


class _Through(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """W x, and the gradient of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Any, frozen: Frozen) -> Any:
        ctx.frozen = frozen
        return frozen.forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return ctx.frozen.backward(gradient.contiguous()), None


class FrozenLinear(nn.Module):  # type: ignore[misc]  # torch is not followed
    """A linear layer that is not trained itself."""

    def __init__(self, frozen: Frozen, bias: Any, fixed: Sequence[Fixed], step: Step) -> None:
        super().__init__()
        self.frozen, self.bias, self.fixed, self.step = frozen, bias, tuple(fixed), step

    def forward(self, x: Any) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        y = self._product(flat)
        if self.bias is not None:
            y = y + self.bias
        for term in self.fixed:
            added = term.added(flat, self.step)
            y = y if added is None else y + added
        return y.view(*x.shape[:-1], y.shape[-1])

    def _product(self, x: Any) -> Any:
        return _Through.apply(x, self.frozen)


class LoraLinear(FrozenLinear):
    """A linear layer with a low-rank term that is trained; `magnitude` [out] is DoRA's, or None."""

    def __init__(
        self,
        frozen: Frozen,
        bias: Any,
        fixed: Sequence[Fixed],
        step: Step,
        *,
        a: Any,
        b: Any,
        scale: float,
        magnitude: Any = None,
    ) -> None:
        super().__init__(frozen, bias, fixed, step)
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)

    def _product(self, x: Any) -> Any:
        y = _LowRank.apply(x, self.a.to(x.dtype), self.b.to(x.dtype), self.frozen, self.scale)
        return y if self.magnitude is None else y * self._gain().to(x.dtype)

    def _gain(self) -> Any:
        with torch.no_grad():
            norm = norms(self.frozen.dense(), self.a, self.b, self.scale)
        return self.magnitude / norm


def norms(weight: Any, a: Any, b: Any, scale: float) -> Any:
    """|W + s B A| of each row, without forming B A."""
    wide = a.dtype
    squares = torch.linalg.vector_norm(weight, dim=1, dtype=wide).square()
    mixed = ((weight @ a.t().to(weight.dtype)).to(wide) * b).sum(1)
    own = ((b @ (a @ a.t())) * b).sum(1)
    return (squares + 2 * scale * mixed + scale * scale * own).clamp_min(0).sqrt()


class LoraTable(nn.Module):  # type: ignore[misc]  # torch is not followed
    """The token lookup with a low-rank term, a [r, vocabulary] and b [hidden, r], or with rows of
    its own: `rows` [k, hidden] of the ids `replaced`. Gemma multiplies what it looked up."""

    def __init__(
        self,
        weight: Any,
        factor: Any,
        *,
        a: Any = None,
        b: Any = None,
        scale: float = 1.0,
        rows: Any = None,
        replaced: Any = None,
    ) -> None:
        super().__init__()
        self.weight, self.factor, self.scale, self.replaced = weight, factor, scale, replaced
        self.a, self.b, self.rows = (None if p is None else nn.Parameter(p) for p in (a, b, rows))

    def forward(self, tokens: Any) -> Any:
        found = F.embedding(tokens, self.weight)
        if self.rows is not None:
            at = torch.searchsorted(self.replaced, tokens).clamp(max=len(self.replaced) - 1)
            own = F.embedding(at, self.rows).to(found.dtype)
            found = torch.where((self.replaced[at] == tokens)[..., None], own, found)
        if self.a is not None:
            low = F.linear(F.embedding(tokens, self.a.t()), self.b) * self.scale
            found = found + low.to(found.dtype)
        return found * self.factor
