"""Codes of 4 bits for a weight, in blocks of inputs that have a scale and a zero point each.

A block's range is searched for, so that its codes leave the least squared error. Where it is known
how a linear's inputs go together, the error that an input's codes leave is made up for by those
after it: GPTQ (Frantar et al. 2022, arXiv:2210.17323), by blocks, in the order of the inputs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorakit.graph.even import Floats

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

    feedback: of the inputs. The values are overwritten.
    """
    inputs, outputs = values.shape
    codes = np.empty((inputs, outputs), np.uint8)
    scales = np.empty((inputs // block, outputs), np.float16)
    zeros = np.empty((inputs // block, outputs), np.uint8)
    for index, begin in enumerate(range(0, inputs, block)):
        end = begin + block
        part = values[begin:end]
        scales[index], zeros[index] = _range(part)
        scale, zero = _wide(scales[index]), zeros[index].astype(np.float32)
        if feedback is None:
            codes[begin:end] = _codes(part, scale, zero)
            continue
        errors = np.empty_like(part)
        for at, within in enumerate(feedback[begin:end, begin:end]):
            code = _codes(part[at], scale, zero)
            codes[begin + at] = code
            errors[at] = (part[at] - (code - zero) * scale) / within[at]
            part[at + 1 :] -= within[at + 1 :, None] * errors[at]
        values[end:] -= feedback[begin:end, end:].T @ errors
    return codes, scales, zeros


def feedback_of(moments: Floats) -> Floats:
    """How the error of an input is made up for by those after it, from the sum of x x^T [in, in].

    It is upper triangular, U in U^T U, the inverse of the damped moments.
    """
    damped = moments.astype(np.float64)
    damped[np.diag_indices_from(damped)] += max(DAMPING * float(np.diag(damped).mean()), 1e-30)
    lower = np.linalg.cholesky(np.ascontiguousarray(damped[::-1, ::-1]))
    factor: Floats = np.linalg.inv(lower)[::-1, ::-1].astype(np.float32)  # of L L^T's inverse
    return factor


def _range(values: Floats) -> tuple[Scales, Codes]:
    """Scale and code of zero [out] of a block [block, out].

    A scale is the least squares' one of the codes that a range gives.
    """
    low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
    span = np.where(high > low, high - low, np.float32(1))
    least = np.full(span.shape, np.inf, np.float32)
    best_scale, best_zero = np.ones(span.shape, np.float16), np.zeros(span.shape, np.uint8)
    for part in RANGES:
        step = span * np.float32(part / TOP)
        zero = np.clip(np.rint(low * np.float32(-part) / step), 0, TOP)
        levels = np.clip(np.rint(values / step) + zero, 0, TOP) - zero
        squares = np.square(levels).sum(axis=0)
        fitted = (levels * values).sum(axis=0) / np.maximum(squares, 1)
        scale = np.where(squares > 0, fitted, step).astype(np.float16)
        error = np.square(levels * _wide(scale) - values).sum(axis=0)
        better = error < least
        least = np.where(better, error, least)
        best_scale = np.where(better, scale, best_scale)
        best_zero = np.where(better, zero, best_zero).astype(np.uint8)
    return best_scale, best_zero


def _codes(values: Floats, scale: Floats, zero: Floats) -> Codes:
    codes: Codes = np.clip(np.rint(values / scale) + zero, 0, TOP).astype(np.uint8)
    return codes


def _wide(scale: Scales) -> Floats:
    """As float32; what is too small for float16 is the scale of nothing but zeros."""
    return np.where(scale == 0, np.float32(1), scale.astype(np.float32))
