"""Matrix products that stay on the calling thread.

OpenBLAS shares larger ones out among threads of its own, which wait for each other by spinning: at
several times the cost where the caller is one of several threads, or another process has a core.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ALONE = 1 << 18  # multiplications up to which OpenBLAS keeps a product on the calling thread
Floats = npt.NDArray[np.floating]
_DEPTH = 128  # terms of a sum that are in one product


def add_product(total: Floats, a: Floats, b: Floats) -> None:
    """total [m, n] += a [m, k] @ b [k, n], for an m of at most a few hundred."""
    width = max(1, ALONE // (_DEPTH * len(a)))
    whole = b.shape[1] // width * width
    wide, rest = slice(0, whole), slice(whole, None)
    for at in range(0, len(b), _DEPTH):
        terms = slice(at, at + _DEPTH)
        if whole:  # one call for all pieces
            pieces = _cut(b[terms, wide], width)
            _cut(total[:, wide], width)[:] += a[:, terms] @ pieces
        total[:, rest] += a[:, terms] @ b[terms, rest]


def _cut(matrix: Floats, width: int) -> Floats:
    """A view [n / width, m, width] of [m, n]."""
    return matrix.reshape(len(matrix), -1, width).swapaxes(0, 1)


def upper_factor(matrix: Floats) -> Floats:
    """R, upper triangular, of R^T R = matrix, symmetric and positive definite: Cholesky's.

    Raises numpy.linalg.LinAlgError where it is not positive definite.
    """
    found, block = np.zeros_like(matrix), 64
    for begin in range(0, len(matrix), block):
        rows, after = slice(begin, begin + block), slice(begin + block, None)
        left = matrix[rows, begin:].copy()
        add_product(left, -found[:begin, rows].T, found[:begin, begin:])
        corner = np.linalg.cholesky(left[:, :block])
        found[rows, rows] = corner.T
        add_product(found[rows, after], np.linalg.inv(corner), left[:, block:])
    return found
