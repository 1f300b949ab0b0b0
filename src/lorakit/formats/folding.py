"""Scales folded into B, for formats that have no word for a scale."""

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
