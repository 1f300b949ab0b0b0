"""Codes of 4 bits for a weight, in blocks of inputs that have a scale and a zero point each.

A block's range is searched for, so that its codes leave the least squared error. Where it is known
how a linear's inputs go together, the error that an input's codes leave is made up for by those
after it, in their order: GPTQ (Frantar et al. 2022, arXiv:2210.17323), in the form that is shown to
be the same in QuIP (Chee et al. 2023, arXiv:2307.13304, "LDLQ"), which inverts nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorakit.graph.even import Floats
from lorakit.products import add_product, upper_factor

TOP = 15  # the largest code
RANGES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a block's values, that are tried
DAMPING = (
    0.5  # of the mean square, added to all: a short text says little of how inputs go together
)
Codes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float16]


def codes4(
    values: Floats, block: int, feedback: Floats | None = None
) -> tuple[Codes, Scales, Codes]:
    """Codes [in, out], scales and codes of zero [in / block, out] of values [in, out].

    feedback: of the inputs. With it the values become what their codes leave out.
    """
    inputs, outputs = values.shape
    codes = np.empty((inputs, outputs), np.uint8)
    scales = np.empty((inputs // block, outputs), np.float16)
    zeros = np.empty((inputs // block, outputs), np.uint8)
    for index, begin in enumerate(range(0, inputs, block)):
        within = slice(begin, begin + block)
        part = values[within]
        wanted = part
        if feedback is not None:
            wanted = part.copy()
            add_product(wanted, feedback[within, :begin], values[:begin])
        scales[index], zeros[index] = _range(wanted)
        scale, zero = _wide(scales[index]), zeros[index].astype(np.float32)
        least, most = -zero, TOP - zero
        if feedback is None:
            codes[within] = _levels(part, scale, least, most, np.empty_like(part)) + zero
            continue
        taken = np.empty_like(scale)
        for at, (factors, row) in enumerate(zip(feedback[within, within], wanted, strict=True)):
            row += np.einsum("i,ij->j", factors[:at], part[:at], out=taken)
            _levels(row, scale, least, most, row)
            part[at] -= np.multiply(row, scale, out=taken)
        wanted += zero
        codes[within] = wanted
    return codes, scales, zeros


def feedback_of(moments: Floats) -> Floats:
    """How much of the error of each input is made up for by each one after it, [in, in].

    From the sum of x x^T [in, in]. It is lower triangular with zeros on its diagonal: U^T - I for
    U D U^T, the damped moments, with U upper triangular and ones on its diagonal.
    """
    damped = moments.copy()
    damped[np.diag_indices_from(damped)] += max(DAMPING * float(np.diag(damped).mean()), 1e-30)
    found = upper_factor(damped[::-1, ::-1])[::-1, ::-1]
    found /= np.diag(found)[:, None]
    np.fill_diagonal(found, 0)
    return np.ascontiguousarray(found)


def _range(values: Floats) -> tuple[Scales, Codes]:
    """Scale and code of zero [out] of a block [block, out].

    A scale is the least squares' one of the codes that a range gives.
    """
    low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
    span = np.where(high > low, high - low, np.float32(1))
    least = np.full(span.shape, np.inf, np.float32)
    best_scale, best_zero = np.ones(span.shape, np.float16), np.zeros(span.shape, np.uint8)
    levels, terms = np.empty_like(values), np.empty_like(values)  # the same for all: they stay near
    for part in RANGES:
        step = span * np.float32(part / TOP)
        zero = np.clip(np.rint(low * np.float32(-part) / step), 0, TOP)
        _levels(values, step, -zero, TOP - zero, levels)
        squares = np.square(levels, terms).sum(axis=0)
        fitted = np.multiply(levels, values, terms).sum(axis=0) / np.maximum(squares, 1)
        scale = np.where(squares > 0, fitted, step).astype(np.float16)
        levels *= _wide(scale)
        levels -= values
        error = np.square(levels, levels).sum(axis=0)
        better = error < least
        least = np.where(better, error, least)
        best_scale = np.where(better, scale, best_scale)
        best_zero = np.where(better, zero, best_zero).astype(np.uint8)
    return best_scale, best_zero


def _levels(values: Floats, scale: Floats, least: Floats, most: Floats, found: Floats) -> Floats:
    """Codes less that of zero, in `found`. least, most: the smallest and the largest."""
    np.divide(values, scale, found)
    np.rint(found, found)
    np.maximum(found, least, out=found)  # half the time of clip
    np.minimum(found, most, out=found)
    return found


def _wide(scale: Scales) -> Floats:
    """As float32; what is too small for float16 is the scale of nothing but zeros."""
    return np.where(scale == 0, np.float32(1), scale.astype(np.float32))
