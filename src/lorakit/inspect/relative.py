"""How strong an adapter is beside the weights that it changes.

The relative strength of a module is ||scale * B @ A||_F / ||W||_F, without a unit: Frobenius norms
of what is added to its weight, and of the base's weight; of all experts together. Of several
modules it is sqrt(sum ||scale * B @ A||_F^2) / sqrt(sum ||W||_F^2) over those that are adapted.
It is the common measure of how far training moved a model (in Hu et al. 2021, section 7.3, the
other way round, per direction). DoRA's magnitudes and replaced parameters are no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lorakit.adapter import Array, Delta
from lorakit.base.folder import Base

_SLICE = 1 << 20  # numbers that are converted at a time


def weight_norms(deltas: Sequence[Delta], base: Base) -> tuple[float | None, ...]:
    """||W||_F of the module of each delta; None where the base has no such weight to read.

    Reads all of these modules' weights, each once, a slice at a time. An export has none, and a
    GGUF file only its tables of floats (`lorakit inspect` dequantises the others).
    """
    known: dict[str, float | None] = {}
    for delta in deltas:
        if delta.module not in known:
            known[delta.module] = _weight_norm(delta, base)
    return tuple(known[delta.module] for delta in deltas)


def relative(norms: Sequence[float], weights: Sequence[float | None]) -> float | None:
    """||scale * B @ A||_F / ||W||_F over all modules whose weight is there; None without any."""
    pairs = [(norm, weight) for norm, weight in zip(norms, weights, strict=True) if weight]
    if not pairs:
        return None
    return math.hypot(*(norm for norm, _ in pairs)) / math.hypot(*(weight for _, weight in pairs))


def _weight_norm(delta: Delta, base: Base) -> float | None:
    shape = base.decoder.modules().get(delta.module)
    sizes = sorted((delta.out_features, delta.in_features))
    if shape is None or sorted((shape.out_features, shape.in_features)) != sizes:
        return None
    try:
        held = (base.weight(delta.module),) if shape.experts is None else base.experts(delta.module)
    except KeyError:
        return None
    return math.sqrt(sum(map(_square, held)))


def _square(weight: Array) -> float:
    """The sum of squares, in float64 over slices of rows."""
    rows = weight if weight.ndim == 2 else weight.reshape(len(weight), -1)
    step = max(1, _SLICE // max(rows.shape[1], 1))
    total = 0.0
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(np.float64).ravel()
        total += float(part @ part)
    return total
