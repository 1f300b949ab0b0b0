"""Blocks of quantised tensors as float32 values, bit for bit what ggml makes of them.

A block is some bytes for 32 or 256 values: codes of a few bits, and scales. What the bytes mean was
read in ggml-org/ggml (ggml-common.h, ggml-quants.c). The types that draw their values from large
grids (IQ1, IQ2, IQ3) and the 4-bit floats are not read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lorakit.files.gguf_types import BLOCKS, PLAIN

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_NON_LINEAR = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)  # to the two-bit fields of a byte
_POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)


def dequantize(kind: str, raw: Bytes) -> Floats:
    """Rows of whole blocks [..., bytes] -> values [..., columns]. kind: one of READABLE."""
    if kind in PLAIN:
        plain: Floats = np.ascontiguousarray(raw).view(PLAIN[kind]).astype(np.float32)
        return plain
    values, size = BLOCKS[kind]
    blocks = np.ascontiguousarray(raw).reshape(-1, size)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite scales are found by who writes
        found = _BY_KIND[kind](blocks)
    return found.reshape(*raw.shape[:-1], raw.shape[-1] // size * values)


def _half(blocks: Bytes, at: int) -> Floats:
    """One float16 of each block, as a column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(codes: Bytes) -> Bytes:
    """The lower halves of bytes [..., n], then the upper ones: [..., 2 n]."""
    return np.concatenate([codes & 15, codes >> 4], axis=-1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """32 bits of each block, each in the place of a code's fifth bit."""
    bits: Bytes = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)
    return bits


def _two_bits(codes: Bytes) -> Bytes:
    """[n, 64] bytes -> [n, 8, 32] codes: of each half, the lowest bits of all bytes come first."""
    halves: Bytes = codes.reshape(-1, 2, 1, 32) >> _SHIFTS[:, None] & np.uint8(3)
    return halves.reshape(-1, 8, 32)


def _q4_0(b: Bytes) -> Floats:
    return (_nibbles(b[:, 2:]).astype(np.float32) - 8) * _half(b, 0)


def _q4_1(b: Bytes) -> Floats:
    return _nibbles(b[:, 4:]).astype(np.float32) * _half(b, 0) + _half(b, 2)


def _q5_0(b: Bytes) -> Floats:
    codes = _nibbles(b[:, 6:]) | _fifth_bits(b, 2)
    return (codes.astype(np.float32) - 16) * _half(b, 0)


def _q5_1(b: Bytes) -> Floats:
    codes = _nibbles(b[:, 8:]) | _fifth_bits(b, 4)
    return codes.astype(np.float32) * _half(b, 0) + _half(b, 2)


def _q8_0(b: Bytes) -> Floats:
    return b[:, 2:].view(np.int8).astype(np.float32) * _half(b, 0)


def _q2_k(b: Bytes) -> Floats:
    scales = (b[:, :16] & 15).astype(np.float32) * _half(b, 80)
    lows = (b[:, :16] >> 4).astype(np.float32) * _half(b, 82)
    values: Floats = _two_bits(b[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    values *= scales[..., None]
    return values - lows[..., None]


def _q3_k(b: Bytes) -> Floats:
    packed = b[:, 96:108]
    upper = (packed[:, None, 8:] >> _SHIFTS[:, None]) & 3
    scales = (_nibbles(packed[:, :8]) | (upper.reshape(-1, 16) << 4)).astype(np.float32) - 32
    third = (b[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    codes = _two_bits(b[:, 32:96]) | (third << 2)
    values: Floats = codes.reshape(-1, 16, 16).astype(np.float32) - 4
    values *= (scales * _half(b, 108))[..., None]
    return values


def _scales_and_lows(b: Bytes) -> tuple[Floats, Floats]:
    """Of Q4_K and Q5_K: eight scales and eight lows of six bits each, in twelve bytes."""
    first, second, third = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    lows = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales.astype(np.float32) * _half(b, 0), lows.astype(np.float32) * _half(b, 2)


def _q4_k(b: Bytes) -> Floats:
    scales, lows = _scales_and_lows(b)
    codes = _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32).astype(np.float32)
    return codes * scales[..., None] - lows[..., None]


def _q5_k(b: Bytes) -> Floats:
    scales, lows = _scales_and_lows(b)
    codes = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    fifth = (b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return (codes | (fifth << 4)).astype(np.float32) * scales[..., None] - lows[..., None]


def _q6_k(b: Bytes) -> Floats:
    codes = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 8, 32)
    codes |= _two_bits(b[:, 128:192]) << 4
    scales = b[:, 192:208].view(np.int8).astype(np.float32) * _half(b, 208)
    return (codes.reshape(-1, 16, 16).astype(np.float32) - 32) * scales[..., None]


def _iq4_nl(b: Bytes) -> Floats:
    values: Floats = _NON_LINEAR[_nibbles(b[:, 2:])] * _half(b, 0)
    return values


def _iq4_xs(b: Bytes) -> Floats:
    pairs = (b[:, 4:8, None] >> np.array([0, 4], np.uint8)) & 15
    upper = (b[:, 2:4, None] >> _SHIFTS) & 3
    scales = (pairs.reshape(-1, 8) | (upper.reshape(-1, 8) << 4)).astype(np.float32) - 32
    codes: Floats = _NON_LINEAR[_nibbles(b[:, 8:].reshape(-1, 8, 16))]
    return codes * (scales * _half(b, 0))[..., None]


def _tq1_0(b: Bytes) -> Floats:
    """Five ternary digits in a byte, as a fraction of 256: the first digit is the highest."""
    parts = []
    for begin, end, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        shifted = b[:, None, begin:end] * _POWERS_OF_3[:digits, None]  # beyond a byte is cut off
        parts.append((shifted.astype(np.uint16) * 3 >> 8).reshape(len(b), -1))
    return (np.concatenate(parts, axis=1).astype(np.float32) - 1) * _half(b, 52)


def _tq2_0(b: Bytes) -> Floats:
    return (_two_bits(b[:, :64]).reshape(-1, 256).astype(np.float32) - 1) * _half(b, 64)


_BY_KIND: dict[str, Callable[[Bytes], Floats]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
}
READABLE = frozenset({*PLAIN, *_BY_KIND})
