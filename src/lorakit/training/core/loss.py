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
    run = _Running(states, labels, wide)
    step = TILE if states.device.type == "cpu" else WIDE
    for at in range(0, len(head.weight), step):
        product = head.multiply(head.weight[at : at + step])
        scores, slope = _capped(product.forward(states).to(wide), head.softcap)
        run.find(scores, at)
        if head.replaced is not None:
            inside = head.replaced[(head.replaced >= at) & (head.replaced < at + step)] - at
            scores[:, inside] = float("-inf")
        run.add(scores, slope, product)
    picked = head.weight[labels].to(wide)
    if rows is None:
        return run.loss(), run.by_state(picked, head.softcap), None
    own, slope = _capped((states @ rows.to(states.dtype).t()).to(wide), head.softcap)
    which = labels[:, None] == head.replaced[None]
    is_own = which.any(1, keepdim=True)
    run.score = torch.where(is_own, (own * which).sum(1, keepdim=True), run.score)
    run.add(own.clone(), slope, Plain(rows.to(states.dtype)))
    picked = torch.where(is_own, which.to(wide) @ rows.to(wide), picked)
    change = (own - run.top - run.total.log()).exp_() - which.to(wide)
    by_row = (change if slope is None else change * slope).t() @ states.to(wide)
    return run.loss(), run.by_state(picked, head.softcap), by_row


def _capped(scores: Any, softcap: float | None) -> tuple[Any, Any]:
    """Scores after the soft cap, and its derivative; None where there is no cap."""
    if not softcap:
        return scores, None
    bent = torch.tanh(scores / softcap)
    return bent * softcap, 1 - bent * bent


class _Running:
    """Of each state: the largest score, the sum of exponentials, its gradient times that, and the
    label's score: of the same product as the others, or a loss near 0 would come out below it."""

    def __init__(self, states: Any, labels: Any, wide: Any) -> None:
        self._labels = labels[:, None]
        self.top = states.new_full((len(states), 1), -1e30, dtype=wide)
        self.total, self.score = torch.zeros_like(self.top), torch.zeros_like(self.top)
        self.gathered = torch.zeros(states.shape, dtype=wide, device=states.device)

    def find(self, scores: Any, at: int) -> None:
        """Take up the scores of labels that lie in the tile that begins at `at`."""
        place = self._labels - at
        inside = (place >= 0) & (place < scores.shape[1])
        found = scores.gather(1, place.clamp(0, scores.shape[1] - 1))
        self.score = torch.where(inside, found, self.score)

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

    def loss(self) -> Any:
        return (self.top - self.score + self.total.log()).sum()

    def by_state(self, picked: Any, softcap: float | None) -> Any:
        """The gradient, where `picked` are the labels' rows."""
        if softcap:
            picked = picked * (1 - (self.score / softcap).square())
        return self.gathered / self.total - picked
