"""MLX's affine quantisation in numpy, bit for bit what `mlx.core.quantize` computes on a CPU.

Read in mlx 0.32, backend/cpu/quantized.cpp. Groups of a row's values get codes of a few bits, a
scale and a bias: value = scale * code + bias. Arithmetic is in float32; the value of larger
magnitude at the end of a group's range stays as it is, and 0 has a code wherever the range allows.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from lorakit.adapter import Array

GROUP = 64  # values; what mlx-lm's convert takes
LEAST = np.float32(1e-7)  # a scale


def quantise(rows: Array, bits: int, group: int = GROUP) -> tuple[Array, Array, Array]:
    """Of rows [n, columns] of any float dtype: codes in uint32 words [n, columns * bits / 32], and
    scales and biases [n, columns / group] in the rows' own dtype."""
    groups = rows.astype(np.float32).reshape(-1, group)
    low, high, last = groups.min(axis=1), groups.max(axis=1), np.float32((1 << bits) - 1)
    below = np.abs(low) > np.abs(high)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = np.maximum((high - low) / last, LEAST)
        scale = np.where(below, scale, -scale)
        edge = np.where(below, low, high)
        steps = np.rint(edge / scale)
        scale = np.where(steps != 0, edge / steps, scale)
    bias = np.where(steps != 0, edge, np.float32(0))
    groups -= bias[:, None]
    groups /= scale[:, None]
    codes = np.rint(groups, out=groups).clip(0, last, out=groups).astype(np.uint8)
    shape = (len(rows), -1)
    with np.errstate(over="ignore"):
        stored = scale.astype(rows.dtype), bias.astype(rows.dtype)
    words = _packed(codes.reshape(-1), bits)
    return words.reshape(shape), stored[0].reshape(shape), stored[1].reshape(shape)


def dequantise(words: Array, scales: Array, biases: Array, bits: int) -> Array:
    """The values as float32: [n, columns]."""
    rows, groups = scales.shape
    codes = _unpacked(words.reshape(-1), bits).reshape(rows * groups, -1)
    values = codes * scales.astype(np.float32).reshape(-1, 1)
    values += biases.astype(np.float32).reshape(-1, 1)
    return values.reshape(rows, -1)


def _packed(codes: Array, bits: int) -> Array:
    """Codes as one stream of bits, the lowest first."""
    together, nbytes = _unit(bits)
    joined = np.zeros(len(codes) // together, np.uint64)
    for place, column in enumerate(codes.reshape(-1, together).T):
        joined |= column.astype(np.uint64) << np.uint64(place * bits)
    stream = joined.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)[:, :nbytes]
    return np.ascontiguousarray(stream).reshape(-1).view("<u4")


def _unpacked(words: Array, bits: int) -> Array:
    together, nbytes = _unit(bits)
    stream = np.ascontiguousarray(words).view(np.uint8).reshape(-1, nbytes)
    joined = np.zeros((len(stream), 8), np.uint8)
    joined[:, :nbytes] = stream
    whole, mask = joined.view("<u8"), np.uint64((1 << bits) - 1)
    shifts = np.arange(together, dtype=np.uint64) * np.uint64(bits)
    codes: Array = ((whole >> shifts) & mask).astype(np.float32).reshape(-1)
    return codes


def _unit(bits: int) -> tuple[int, int]:
    """How many codes fill whole bytes, and how many bytes."""
    together = 8 // gcd(bits, 8)
    return together, together * bits // 8
