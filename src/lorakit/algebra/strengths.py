"""How strong each of several adapters is, and how much of their sum is each one's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.adapter import Adapter
from lorakit.algebra.lowrank import Product
from lorakit.algebra.parts import products

UNEVEN = 3.0  # from this ratio of strengths on it is said
NOTHING = 1e-12  # of the squares: a sum that cancels out but for rounding


@dataclass(frozen=True, slots=True)
class Strengths:
    """norms: of each adapter at its weight the Frobenius norm of all its deltas, ||D_i||_F.

    shares: <D_i, S>_F / ||S||_F^2 for the sum S of all; they add up to 1, and one that works
    against the others is negative. All are 0 where the sum is nothing.
    """

    norms: tuple[float, ...]
    shares: tuple[float, ...]


def strengths(weighted: Sequence[tuple[Adapter, float]]) -> Strengths:
    """Of adapters at their weights, from the factors alone: no matrix is formed."""
    modules: dict[tuple[str, str], list[tuple[int, list[Product]]]] = {}
    for number, (adapter, weight) in enumerate(weighted):
        for delta in adapter.deltas:
            modules.setdefault(delta.key, []).append((number, products(delta, weight)))
    dots = np.zeros((len(weighted), len(weighted)))
    for parts in modules.values():
        for one, mine in parts:
            for other, theirs in parts:
                dots[one, other] += sum(map(_dot, mine, theirs))
    squares, rows = np.maximum(dots.diagonal(), 0.0), dots.sum(axis=1)
    total = float(rows.sum())
    if total <= NOTHING * float(squares.sum()):
        rows, total = np.zeros(len(rows)), 1.0
    return Strengths(tuple(np.sqrt(squares).tolist()), tuple((rows / total).tolist()))


def _dot(first: Product, second: Product) -> float:
    """<B1 A1, B2 A2>_F = sum of (B1^T B2) * (A1 A2^T), entry by entry."""
    return float(np.sum((first.b.T @ second.b) * (first.a @ second.a.T)))


def uneven(norms: Sequence[float]) -> tuple[str, ...]:
    """That one adapter drowns another, where it does."""
    active = [(value, number) for number, value in enumerate(norms, 1) if value > 0]
    if len(active) < 2 or max(active)[0] < UNEVEN * min(active)[0]:
        return ()
    (most, strong), (least, weak) = max(active), min(active)
    return (
        f"adapter {strong} is {most / least:.3g} times as strong as adapter {weak} at these "
        f"weights (norms {most:.3g} and {least:.3g}): where they disagree it decides; "
        f"a weight of adapter {strong} {least / most:.2g} times as large would make them even",
    )
