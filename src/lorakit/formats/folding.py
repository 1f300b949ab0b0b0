"""Scales folded into B and ranks padded, for formats that have one of each for a whole file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter, Delta
from lorakit.errors import FormatError


def folded(adapter: Adapter) -> Adapter:
    """The adapter with each delta's scale in its B, multiplied in float32 as engines do.

    Raises FormatError where a product is too large.
    """
    return replace(adapter, deltas=tuple(folded_delta(delta) for delta in adapter.deltas))


def folded_delta(delta: Delta) -> Delta:
    """One delta with its scale in its B. Raises FormatError where a product is too large."""
    if delta.scale == 1.0:
        return delta
    with np.errstate(over="ignore"):
        b = delta.b.astype(np.float32) * np.float32(delta.scale)
    if not np.isfinite(b).all() and np.isfinite(delta.b.astype(np.float32)).all():
        raise FormatError(f"{delta.module}: B times its scale {delta.scale} is too large")
    return replace(delta, b=b, scale=1.0)


def made_uniform(adapter: Adapter) -> Adapter:
    """The adapter with one rank and one scale: ranks padded with zeros, scales that differ folded
    into B in float32. It computes the same.

    Raises FormatError where a product is too large.
    """
    scales = {delta.scale for delta in adapter.deltas}
    scale = scales.pop() if len(scales) == 1 else 1.0
    deltas = (d if d.scale == scale else folded_delta(d) for d in adapter.deltas)
    deltas = (replace(padded(d, adapter.max_rank), alpha=None) for d in deltas)
    return replace(adapter, deltas=tuple(deltas))


def padded(delta: Delta, rank: int) -> Delta:
    """With rows of A and columns of B that are zero, up to a rank."""
    missing, stack = rank - delta.rank, [(0, 0)] * (delta.a.ndim - 2)
    if not missing:
        return delta
    return replace(
        delta,
        a=np.pad(delta.a, [*stack, (0, missing), (0, 0)]),
        b=np.pad(delta.b, [*stack, (0, 0), (0, missing)]),
        alpha=None,
    )
