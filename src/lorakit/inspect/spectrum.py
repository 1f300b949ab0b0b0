"""Singular values of a delta, from its factors: scale * B @ A is never formed.

QR of B and of A^T leaves two triangles whose product, [r, r], has the singular values of the whole
(Golub and Van Loan, section 5.4.1). All of it is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array, Delta

F64 = npt.NDArray[np.float64]
ENERGIES = (0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The singular values of one matrix, descending; NaN all through where a factor holds NaN.

    effective_rank: exp of the entropy of values / sum (Roy and Vetterli 2007); stable_rank:
    sum of squares / largest square; rank90 and rank99: how many values hold that share of the sum
    of squares, which is what `resize --energy` would keep. All are 0 for a delta of zero.
    """

    values: tuple[float, ...]
    effective_rank: float
    stable_rank: float
    rank90: int
    rank99: int


def spectra(delta: Delta) -> tuple[Spectrum, ...]:
    """One spectrum of scale * B @ A, or one for each expert."""
    return tuple(_spectrum(abs(delta.scale) * values) for values in _singular(delta))


def _singular(delta: Delta) -> Iterator[F64]:
    if delta.a.ndim == 2:
        yield singular_values(delta.b, delta.a)
        return
    for b, a in zip(delta.b, delta.a, strict=True):
        yield singular_values(b, a)


def singular_values(b: Array, a: Array) -> F64:
    """Of b [out, r] @ a [r, in], descending, min(out, r, in) of them."""
    left, right = b.astype(np.float64), a.astype(np.float64).T
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return np.full(min(*b.shape, *a.shape), np.nan)
    core = np.linalg.qr(left)[1] @ np.linalg.qr(right)[1].T
    values: F64 = np.linalg.svd(core, compute_uv=False)
    return values


def _spectrum(values: F64) -> Spectrum:
    top = float(values[0]) if values.size else 0.0
    if top == 0 or not math.isfinite(top):
        none = top if math.isnan(top) else 0.0
        return Spectrum(
            values=tuple(values.tolist()),
            effective_rank=none,
            stable_rank=none,
            rank90=0,
            rank99=0,
        )
    share = values / values.sum()
    share = share[share > 0]
    square = (values / top) ** 2
    held = np.cumsum(square) / square.sum()
    counts = [int(np.searchsorted(held, energy * (1 - 1e-12)) + 1) for energy in ENERGIES]
    return Spectrum(
        values=tuple(values.tolist()),
        effective_rank=float(np.exp(-np.sum(share * np.log(share)))),
        stable_rank=float(square.sum()),
        rank90=counts[0],
        rank99=counts[1],
    )
