"""Cross entropy over a large vocabulary without its logits, for a frozen head.

The vocabulary is gone through once, in tiles that stay in the cache, with a running maximum; the
gradient of the states is gathered in the same pass and rescaled where the maximum rises (as flash
attention does with values; Dao et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lorakit.training.core.frozen import Frozen, Plain

TILE = 2048  # rows of the head at a time on a CPU
WIDE = 16384  # and elsewhere
STATES = 512  # at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """The vocabulary projection. `replaced` [n] are ids whose rows are trained, and so come as an
    argument."""

    weight: Any
    multiply: type[Frozen]
    softcap: float | None = None
    replaced: Any = None


class CrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """The sum of -log p(label) over states [n, hidden]; rows [k, hidden] or None are trained."""

    @staticmethod
    def forward(ctx: Any, states: Any, rows: Any, labels: Any, head: Head) -> Any:
        parts = [
            _block(states[at : at + STATES], rows, labels[at : at + STATES], head)
            for at in range(0, len(states), STATES)
        ]
        by_state = torch.cat([part[1] for part in parts])
        by_row = None if rows is None else torch.stack([part[2] for part in parts]).sum(0)
        ctx.save_for_backward(by_state, by_row)
        ctx.dtype = states.dtype
        return torch.stack([part[0] for part in parts]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        by_state, by_row = ctx.saved_tensors
        rows = None if by_row is None else by_row * gradient
        return (by_state * gradient).to(ctx.dtype), rows, None, None


def _block(states: Any, rows: Any, labels: Any, head: Head) -> tuple[Any, Any, Any]:
    """Loss, the gradient of the states, and of the trained rows."""
    wide = torch.float64 if states.dtype == torch.float64 else torch.float32
    run = _Running(states, wide)
    step = TILE if states.device.type == "cpu" else WIDE
    for at in range(0, len(head.weight), step):
        tile = head.weight[at : at + step]
        product = head.multiply(tile)
        scores, slope = _capped(product.forward(states).to(wide), head.softcap)
        if head.replaced is not None:
            inside = head.replaced[(head.replaced >= at) & (head.replaced < at + step)] - at
            scores[:, inside] = float("-inf")
        run.add(scores, slope, product)
    if rows is None:
        return _finish(states, labels, head, run, head.weight[labels], None)
    own, slope = _capped((states @ rows.to(states.dtype).t()).to(wide), head.softcap)
    run.add(own.clone(), slope, Plain(rows.to(states.dtype)))
    which = labels[:, None] == head.replaced[None]
    picked = head.weight[labels].to(wide)
    picked = torch.where(which.any(1, keepdim=True), which.to(wide) @ rows.to(wide), picked)
    loss, by_state, factor = _finish(states, labels, head, run, picked, True)
    p = (own - run.top - run.total.log()).exp_()
    change = p if slope is None else p * slope
    return loss, by_state, (change - which.to(wide) * factor).t() @ states.to(wide)


def _finish(
    states: Any, labels: Any, head: Head, run: _Running, picked: Any, with_factor: Any
) -> tuple[Any, Any, Any]:
    wide = run.top.dtype
    picked = picked.to(wide)
    score, slope = _capped((states.to(wide) * picked).sum(1, keepdim=True), head.softcap)
    loss = (run.top + run.total.log() - score).sum()
    factor = torch.ones_like(score) if slope is None else slope
    return loss, run.gathered / run.total - picked * factor, factor if with_factor else None


def _capped(scores: Any, softcap: float | None) -> tuple[Any, Any]:
    """Scores after the soft cap, and its derivative; None where there is no cap."""
    if not softcap:
        return scores, None
    bent = torch.tanh(scores / softcap)
    return bent * softcap, 1 - bent * bent


class _Running:
    """Of each state: the largest score, the sum of exponentials, and its gradient times that."""

    def __init__(self, states: Any, wide: Any) -> None:
        self.top = states.new_full((len(states), 1), -1e30, dtype=wide)
        self.total = torch.zeros_like(self.top)
        self.gathered = torch.zeros(states.shape, dtype=wide, device=states.device)

    def add(self, scores: Any, slope: Any, tile: Frozen) -> None:
        """Changes `scores`."""
        top = torch.maximum(self.top, scores.amax(1, keepdim=True))
        shrink = (self.top - top).exp_()
        scores.sub_(top).exp_()
        self.total.mul_(shrink).add_(scores.sum(1, keepdim=True))
        if slope is not None:
            scores.mul_(slope)
        self.gathered.mul_(shrink).add_(tile.backward(scores.to(tile.dense().dtype)))
        self.top = top
