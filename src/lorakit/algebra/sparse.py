"""TIES, DARE and magnitude pruning, on the deltas themselves and not on their factors.

One module at a time: each adapter's W = weight * scale * B @ A is formed in float32, made sparse,
added up, and the sum is cut by a truncated SVD. Trimming is per module, not over the whole adapter.

    magnitude   sum_i trim(W_i)
    ties        over the entries of trim(W_i) that have the elected sign, which is that of their
                sum: their mean (Yadav et al. 2023)
    dare        sum_i mask_i * W_i / density, mask_i a coin of chance `density` (Yu et al. 2024)
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Delta
from lorakit.algebra.lowrank import Cut, cut_dense, dense_error, dense_norm
from lorakit.algebra.parts import stacked
from lorakit.algebra.report import ModuleResidual
from lorakit.errors import ParameterError
from lorakit.values import among, finite, shown, whole

F32 = npt.NDArray[np.float32]
Method = Literal["concatenate", "svd", "ties", "dare", "magnitude"]
METHODS = get_args(Method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """How to make deltas sparse. density: the share of entries that stay."""

    method: str
    density: float
    seed: int

    def __post_init__(self) -> None:
        if not among(self.method, METHODS):
            said = f"method must be one of {', '.join(METHODS)}, not {shown(self.method)}"
            raise ParameterError(said)
        if not (finite(self.density) and 0 < self.density <= 1):
            said = shown(self.density)
            raise ParameterError(f"density must be above 0 and at most 1, found {said}")
        if not (whole(self.seed) and 0 <= self.seed < 1 << 63):
            raise ParameterError(
                f"seed must be a whole number of 0 or more, found {shown(self.seed)}"
            )


def sparse_delta(
    parts: Sequence[tuple[int, Delta, float]], sparse: Sparse, cut: Cut
) -> tuple[Delta | None, ModuleResidual]:
    """The parts of one module (number of the adapter, delta, weight) as one delta."""
    like = parts[0][1]
    targets = [target(parts, sparse, expert) for expert in range(_experts(like))]
    stored = stacked([cut_dense(t, cut, seed=sparse.seed) for t in targets], like, None)
    norms = [dense_norm(t) for t in targets]
    norm = math.hypot(*norms)
    errors = list(norms)
    if stored is not None:
        pairs = zip(stored.b, stored.a, strict=True) if like.a.ndim == 3 else [(stored.b, stored.a)]
        errors = [dense_error(t, b, a) for t, (b, a) in zip(targets, pairs, strict=True)]
    return stored, ModuleResidual(
        module=like.module,
        site=like.site.value,
        rank_before=sum(delta.rank for _, delta, _ in parts),
        rank_after=0 if stored is None else stored.rank,
        norm=norm,
        residual=math.hypot(*errors) / norm if norm else 0.0,
    )


def target(parts: Sequence[tuple[int, Delta, float]], sparse: Sparse, expert: int = 0) -> F32:
    """The sparse sum [out, in] that is then cut."""
    dense = [(n, delta, _dense(delta, weight, expert)) for n, delta, weight in parts if weight]
    if not dense:
        return np.zeros((parts[0][1].out_features, parts[0][1].in_features), np.float32)
    if sparse.method == "dare":
        return sum_of([_dropped(w, sparse, n, d, expert) for n, d, w in dense])
    trimmed = [_trimmed(w, sparse.density) for _, _, w in dense]
    return _elected(trimmed) if sparse.method == "ties" else sum_of(trimmed)


def sum_of(matrices: Sequence[F32]) -> F32:
    total = matrices[0].copy()
    for matrix in matrices[1:]:
        total += matrix
    return total


def _experts(delta: Delta) -> int:
    return len(delta.a) if delta.a.ndim == 3 else 1


def _dense(delta: Delta, weight: float, expert: int) -> F32:
    b, a = (delta.b, delta.a) if delta.a.ndim == 2 else (delta.b[expert], delta.a[expert])
    factor = np.float32(weight * delta.scale)
    with np.errstate(over="ignore", invalid="ignore"):
        found: F32 = (b.astype(np.float32) * factor) @ a.astype(np.float32)
    if not np.isfinite(found).all():
        raise ParameterError(f"{delta.module}: the result is too large for float32")
    return found


def _trimmed(matrix: F32, density: float) -> F32:
    """Only the largest entries by magnitude: the share `density`, rounded down, one at least."""
    count = max(1, int(density * matrix.size))
    if count == matrix.size:
        return matrix
    sizes, at = np.abs(matrix).reshape(-1), matrix.size - count
    kept = sizes >= _ranked(sizes, at)
    if np.count_nonzero(kept) > count:  # equal ones stay until there are enough
        kept = np.zeros(matrix.size, bool)
        kept[np.argpartition(sizes, at)[at:]] = True
    found: F32 = matrix * kept.reshape(matrix.shape)
    return found


def _ranked(sizes: F32, at: int) -> np.float32:
    """What stands at `at` when the sizes, none negative, are sorted: their upper 16 bits are
    counted, so that only the few that share the right ones need partitioning."""
    upper = sizes.view(np.uint32) >> np.uint32(16)
    until = np.cumsum(np.bincount(upper))
    found = int(np.searchsorted(until, at, side="right"))
    near = sizes[upper == found]
    rank = at - int(until[found]) + near.size
    ranked: np.float32 = np.partition(near, rank)[rank]
    return ranked


def _elected(trimmed: Sequence[F32]) -> F32:
    summed = sum_of(trimmed)
    positive, total = summed > 0, np.zeros_like(summed)
    votes = np.zeros(summed.shape, np.uint16)
    for matrix in trimmed:
        agrees = ((matrix > 0) == positive) & (matrix != 0)
        total += matrix * agrees
        votes += agrees
    total /= np.maximum(votes, 1)
    total *= summed != 0
    return total


def _dropped(matrix: F32, sparse: Sparse, number: int, delta: Delta, expert: int) -> F32:
    """A coin for each entry; its seed depends on nothing but the seed, the adapter's number in the
    list, and the module."""
    name = zlib.crc32(f"{delta.module} {delta.site}".encode())
    coins = np.random.default_rng([sparse.seed, number, name, expert])
    kept = coins.random(matrix.shape, np.float32) < np.float32(sparse.density)
    return (matrix / np.float32(sparse.density)) * kept
