"""Low-rank factors of a matrix that is given as a product, or dense.

A `Product` is B [out, r] times A [r, in] in float64. A product is cut by QR of its factors and an
SVD of the small core; the full matrix is never formed. A dense matrix is cut to a rank that is low
beside its sides by a randomized SVD (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1) with
a fixed seed, OVERSAMPLING extra directions and POWER iterations; and by LAPACK's where the rank is
not low, an energy alone decides of a matrix of at most EXACT, or `Cut.exact` asks for it. The
randomized one's Frobenius error is within 1% of the best of that rank on the matrices of the tests,
and what callers report is the error that they measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array
from lorakit.errors import ParameterError
from lorakit.values import finite, shown, whole

MAX_RANK = 1 << 20

F64 = npt.NDArray[np.float64]
EXACT = 768  # smaller side up to which an energy alone is found by LAPACK's SVD
SMALL = 128  # smaller side up to which LAPACK's is as fast
OVERSAMPLING = 16
POWER = 4
_ROWS = 512  # of a dense matrix, at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How much to keep: at most `rank` singular values, and as few as hold the share `energy` of
    the sum of their squares. Singular values that are zero to rounding are never kept.

    exact: never by a randomized SVD."""

    rank: int | None = None
    energy: float | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.rank is None and self.energy is None:
            raise ParameterError("name a rank or an energy", hint="rank=16, or energy=0.99")
        if self.rank is not None and not (whole(self.rank) and 1 <= self.rank <= MAX_RANK):
            raise ParameterError(
                f"rank must be whole, at least 1 and at most {MAX_RANK}, found {shown(self.rank)}"
            )
        if self.energy is not None and not (finite(self.energy) and 0 < self.energy <= 1):
            said = shown(self.energy)
            raise ParameterError(f"energy must be above 0 and at most 1, found {said}")

    def keep(self, values: F64, total: float, floor: float) -> int:
        """How many of the descending singular `values` to keep; `total`: sum of all squares."""
        count = int(np.sum(values > floor))
        if self.energy is not None:
            short = np.cumsum(values[:count] ** 2) < self.energy * total * (1 - 1e-12)
            count = min(count, int(np.sum(short)) + 1)
        return count if self.rank is None else min(count, self.rank)


@dataclass(frozen=True, slots=True)
class Product:
    """b: [out, r], a: [r, in], float64; the matrix b @ a."""

    b: F64
    a: F64

    def norm(self) -> float:
        """Frobenius norm, to float64 rounding, from the triangles of both factors."""
        left, right = np.linalg.qr(self.b)[1], np.linalg.qr(self.a.T)[1]
        return float(np.linalg.norm(left @ right.T))

    def minus(self, other: Product) -> Product:
        return Product(np.hstack([self.b, -other.b]), np.vstack([self.a, other.a]))


def cut_product(product: Product, cut: Cut) -> Product:
    """The best approximation (Eckart and Young 1936), with balanced factors."""
    q_left, r_left = np.linalg.qr(product.b)
    q_right, r_right = np.linalg.qr(product.a.T)
    u, values, vt = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
    eps = np.finfo(np.float64).eps * max(product.b.shape[0], product.a.shape[1])
    # cancelling factors leave rounding of their own size, not of the result's
    size = float(np.linalg.norm(r_left) * np.linalg.norm(r_right))
    kept = cut.keep(values, float(np.sum(values**2)), eps * size)
    return _balanced(q_left @ u[:, :kept], values[:kept], vt[:kept] @ q_right.T)


def cut_dense(matrix: Array, cut: Cut, *, seed: int = 0) -> Product:
    """A truncated SVD of a float32 matrix [out, in], with balanced factors."""
    small = min(matrix.shape)
    least = small if cut.exact else SMALL if cut.rank else EXACT
    total = dense_norm(matrix) ** 2
    if total == 0:
        return Product(np.zeros((matrix.shape[0], 0)), np.zeros((0, matrix.shape[1])))
    rank = cut.rank or 16
    while small > least and 4 * (rank + OVERSAMPLING) <= small:
        u, values, vt = _sketch(matrix, rank + OVERSAMPLING, seed)
        kept = cut.keep(values[:rank], total, _floor(values, matrix))
        held = float(np.sum(values[:kept] ** 2))
        if cut.rank is not None or (cut.energy is not None and held >= cut.energy * total):
            return _balanced(u[:, :kept], values[:kept], vt[:kept])
        rank *= 2
    u, values, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    kept = cut.keep(values, total, _floor(values, matrix))
    return _balanced(u[:, :kept], values[:kept], vt[:kept])


def _floor(values: F64, matrix: Array) -> float:
    """Below this a singular value is float32 rounding of the largest."""
    return float(values[0]) * float(np.finfo(np.float32).eps) * math.sqrt(max(matrix.shape)) / 8


def _sketch(matrix: Array, width: int, seed: int) -> tuple[F64, F64, F64]:
    """A randomized SVD of `width` values; products in float32, orthonormalised at each step."""
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), np.float32)
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(POWER):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    u, values, vt = np.linalg.svd((basis.T @ matrix).astype(np.float64), full_matrices=False)
    return basis.astype(np.float64) @ u, values, vt


def _balanced(u: F64, values: F64, vt: F64) -> Product:
    root = np.sqrt(values)
    return Product(u * root, root[:, None] * vt)


def dense_norm(matrix: Array) -> float:
    """Frobenius norm in float64, a slice of rows at a time."""
    parts = (matrix[at : at + _ROWS].astype(np.float64) for at in range(0, len(matrix), _ROWS))
    return math.sqrt(sum(_square(part) for part in parts))


def dense_error(matrix: Array, b: Array, a: Array) -> float:
    """||b a - matrix||_F, a slice of rows at a time."""
    square, right = 0.0, a.astype(np.float64)
    for at in range(0, len(matrix), _ROWS):
        part = b[at : at + _ROWS].astype(np.float64) @ right
        part -= matrix[at : at + _ROWS]
        square += _square(part)
    return math.sqrt(square)


def _square(part: F64) -> float:
    flat = part.reshape(-1)
    return float(flat @ flat)
