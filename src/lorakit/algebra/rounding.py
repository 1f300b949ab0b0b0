"""Training told apart from rounding, where a base and its fine-tune are stored in other dtypes.

A tensor that was never trained differs in its dtype's rounding alone: each value by half a step of
either dtype at most. So does one that was trained in a finer dtype by less than that; but what
rounding leaves behind is spread evenly over a step, so its norm is known.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array

ROWS = 64  # of a tensor, at a time: the first that were trained end the comparison
SPREAD = 0.5  # of the norm of even rounding: what has less was trained, on values the base has


def trained(before: Array, after: Array) -> bool:
    """Whether a tensor holds more than the rounding of the coarser of the two dtypes."""
    if before.dtype == after.dtype:
        return not np.array_equal(before, after)
    moved = expected = 0.0
    for at in range(0, len(before), ROWS):
        one, other = before[at : at + ROWS], after[at : at + ROWS]
        with np.errstate(over="ignore", invalid="ignore"):
            if np.array_equal(one.astype(other.dtype), other):
                continue
        wide, found = one.astype(np.float64), other.astype(np.float64)
        apart = np.abs(found - wide)
        if not (apart <= (steps(one) + steps(other)) / 2).all():
            return True
        moved += float(np.sum(apart**2))
        expected += float(np.sum(steps(one) ** 2)) / 12
    return mantissa(after) > mantissa(before) and math.sqrt(moved) < SPREAD * math.sqrt(expected)


def rounding(after: Array) -> float:
    """The Frobenius norm that the rounding of values to their dtype has, if it is even."""
    rows = (after[at : at + ROWS] for at in range(0, len(after), ROWS))
    return math.sqrt(sum(float(np.sum(steps(part) ** 2)) for part in rows) / 12)


def steps(values: Array) -> npt.NDArray[np.float64]:
    """The distance of neighbouring numbers of the dtype, at each value."""
    exponents = np.frexp(values.astype(np.float64))[1] - 1
    lowest = _limits(values).minexp
    exponents[values == 0] = lowest
    found: npt.NDArray[np.float64] = np.ldexp(1.0, np.maximum(exponents, lowest) - mantissa(values))
    return found


def mantissa(values: Array) -> int:
    """Bits of precision of the dtype, the leading one aside."""
    return int(_limits(values).nmant)


def _limits(values: Array) -> Any:
    return ml_dtypes.finfo(values.dtype)  # type: ignore[no-untyped-call]  # it has no types
