"""Does an adapter do anything, and do its values live through rounding?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array
from lorakit.check.mismatch import Mismatch

LOST = 0.05  # ten times what rounding to bfloat16 loses of any values
_HALF = np.dtype(np.float16)
_TINIEST = 6.1e-5  # float16's least number of full precision


def is_dead(adapter: Adapter) -> bool:
    """Whether it changes nothing at any scale: all of its deltas are zero, and it has no more."""
    if adapter.replacements or adapter.magnitudes:
        return False
    return not any(
        d.scale and ((np.any(d.a) and np.any(d.b)) or (d.bias is not None and np.any(d.bias)))
        for d in adapter.deltas
    )


def dead(adapter: Adapter) -> Iterator[Mismatch]:
    """A warning for one that does nothing."""
    if is_dead(adapter):
        yield Mismatch(
            item="effect",
            expected="a delta that is not zero",
            found="zeros in all of its deltas: it does nothing",
            advice="B is zero before training: was it trained, and saved after that?",
            severity="warning",
        )


def lost(array: Array, dtype: npt.DTypeLike) -> float:
    """The share of an array that rounding to a dtype loses, from 0 to 1, by the sum of squares."""
    values = np.asarray(array, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(dtype).astype(np.float64)
    size = np.abs(values).max(initial=0.0)
    if not size or not np.isfinite(size):
        return 0.0
    difference = np.linalg.norm((values - rounded) / size)
    return float(difference / np.linalg.norm(values / size))


def tiny(adapter: Adapter) -> Iterator[Mismatch]:
    """Values that float16 does not hold, in which others convert adapters and engines compute."""
    names = [
        name
        for name, array in adapter.arrays()
        if array.dtype != _HALF
        and array.size
        and float(np.abs(array).max()) < 64 * _TINIEST  # reads once; rounds only what may be lost
        and lost(array, _HALF) > LOST
    ]
    if names:
        yield Mismatch(
            item="half precision",
            expected="values that float16 holds",
            found=f"values in {len(names)} arrays, such as {names[0]}, that it rounds to 0",
            advice="keep it in float32 or bfloat16",
            severity="warning",
        )
