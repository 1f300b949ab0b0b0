"""Values rounded to what a GGUF tensor stores, without llama.cpp: floats, and blocks of Q8_0.

Blocks are bit for bit ggml's (ggml-quants.c, quantize_row_q8_0_ref).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from lorakit.adapter import Array
from lorakit.files.gguf_types import BLOCKS, PLAIN

Rounding = Callable[[Array], Array]  # floats of any kind, whole blocks of them, to bytes
# Where a block holds its float16 factors: bytes from its beginning. Source: ggml-common.h.
_FACTORS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "IQ3_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
_EXPONENTS = {"F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
_SIGN, _BELOW_HALF = np.uint32(0x80000000), np.uint32(0x3EFFFFFF)  # bits of float32


def is_finite(kind: str, raw: Array) -> bool:
    """Whether stored bytes hold finite numbers; of types that are only copied nothing is known."""
    if kind in _EXPONENTS:  # numpy converts these slowly
        word, mask = _EXPONENTS[kind]
        return bool(((raw.view(word) & word(mask)) != word(mask)).all())
    if kind in PLAIN:
        return bool(np.isfinite(raw.view(PLAIN[kind])).all())
    blocks = raw.reshape(-1, BLOCKS[kind][1])
    return all(
        is_finite("F16", np.ascontiguousarray(blocks[:, at : at + 2]))
        for at in _FACTORS.get(kind, ())
    )


def overflow(values: Array) -> OverflowError:
    """For values that a type cannot hold, to be raised."""
    return OverflowError(f"values up to {np.abs(values).max():.3g}")


def _to_floats(kind: str, values: Array) -> Array:
    with np.errstate(over="ignore"):
        rounded = values.astype(PLAIN[kind]).view(np.uint8)
    if not is_finite(kind, rounded):
        raise overflow(values)
    return rounded


def _to_q8_0(values: Array) -> Array:
    """A factor and 32 whole numbers, each rounded half away from zero."""
    rows = values.astype(np.float32, copy=False).reshape(-1, 32)
    factors = np.ascontiguousarray(np.abs(rows).T).max(axis=0) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / factors
        stored = factors.astype(np.float16)
    if not np.isfinite(stored).all():
        raise overflow(values)
    inverse[~np.isfinite(inverse)] = 0  # of no factor, or one that is 0 as a float16
    scaled = rows * inverse[:, None]
    scaled += ((scaled.view(np.uint32) & _SIGN) | _BELOW_HALF).view(np.float32)
    blocks = np.empty((len(rows), 34), np.uint8)
    blocks[:, :2] = stored[:, None].view(np.uint8)
    blocks[:, 2:] = scaled.astype(np.int8).view(np.uint8)
    return blocks.reshape(-1)


# By type. They raise OverflowError for values that it cannot hold.
ROUNDINGS: dict[str, Rounding] = {
    **{kind: partial(_to_floats, kind) for kind in PLAIN},
    "Q8_0": _to_q8_0,
}
