"""Linears in blocks: MatMulNBits, with scales per block of inputs and 8-bit activations.

The operator makes codes of a row's values block by block, so that a large one coarsens few others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.codes4 import Codes, Scales, codes4
from lorakit.graph.even import Floats, Seen, even, make_even
from lorakit.graph.weights import parts, transposed
from lorakit.graph.writer import CONTRIB, Writer

SIZES = (64, 32, 16)  # that the operator takes, and no larger ones
WIDE, NARROW = 64, 32  # inputs of a block in 8 bits and in 4; in 128 a row alone rounds otherwise


@dataclass(frozen=True, slots=True)
class Packed:
    """codes: uint8 [out, blocks, bytes], a smaller index in lower bits. scales: [out, blocks], in
    float16 where it holds them. zeros: codes of zero, packed alike, uint8 [out, bytes]; None is
    the middle of the range."""

    codes: Codes
    scales: Scales | Floats
    zeros: Codes | None = None


def block_size(inputs: int, most: int) -> int | None:
    """The largest block that inputs can be cut into; None where there is none."""
    return next((size for size in SIZES if size <= most and inputs % size == 0), None)


def block8(writer: Writer, module: str, x: str, weight: Array, block: int) -> str:
    """8-bit weights, symmetric."""
    return product(writer, module, x, weight.shape, packed8(weight, block), bits=8)


def block4(
    writer: Writer, module: str, x: str, weight: Array, block: int, seen: Seen | None = None
) -> str:
    """4-bit weights with zero points. seen: of x; its rows are made even as 8-bit ones are."""
    if seen is not None:
        x = even(writer, x, seen.divisors)
    return product(writer, module, x, weight.shape, packed4(weight, block, seen), bits=4)


def product(
    writer: Writer,
    module: str,
    x: str,
    shape: tuple[int, ...],
    packed: Packed,
    *,
    bits: int,
    rounded: bool = True,
    dtype: type[np.floating] = np.float32,
) -> str:
    """x times packed weights. rounded: x becomes 8-bit codes. dtype: of x."""
    outputs, inputs = shape
    held = packed.scales if dtype == np.float32 else packed.scales.astype(dtype)
    scales = writer.weight(f"{module}.weight.scale", held)
    if held.dtype != dtype:  # half the disk; widened once when the session opens
        scales = writer.node("Cast", [scales], f"{scales}.f32", to=TensorProto.FLOAT)
    named = [writer.weight(f"{module}.weight.q{bits}", packed.codes), scales]
    if packed.zeros is not None:
        named.append(writer.weight(f"{module}.weight.zero", packed.zeros))
    attributes: dict[str, Any] = {"accuracy_level": 4} if rounded else {}
    return writer.node(
        "MatMulNBits",
        [x, *named],
        f"{module}.xW",
        domain=CONTRIB,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=inputs // packed.scales.shape[1],
        **attributes,
    )


def packed8(weight: Array, block: int, *, narrow: bool = True) -> Packed:
    """Symmetric around 128. The largest value of a block is at the end that is one longer.

    narrow: scales are in float16 where that holds them all.
    """
    outputs, inputs = weight.shape
    codes = np.empty((outputs, inputs // block, block), np.uint8)
    exact = np.empty((outputs, inputs // block), np.float32)
    for rows in parts(weight):
        part = weight[rows].astype(np.float32).reshape(-1, inputs // block, block)
        at = np.abs(part).argmax(axis=2, keepdims=True)
        exact[rows] = np.take_along_axis(part, at, axis=2)[..., 0] / np.float32(-128)
    scales = _narrowed(exact) if narrow else exact
    safe = np.where(scales == 0, np.float32(1), scales.astype(np.float32))
    for rows in parts(weight):
        part = weight[rows].astype(np.float32).reshape(-1, inputs // block, block)
        found = np.clip(np.rint(part / safe[rows, :, None]) + 128, 0, 255)
        codes[rows] = found.astype(np.uint8)
    return Packed(codes, scales)


def packed4(weight: Array, block: int, seen: Seen | None = None) -> Packed:
    """Codes around zero points; see graph.codes4."""
    outputs, inputs = weight.shape
    count = inputs // block
    values = transposed(weight, np.float32)
    if seen is not None:
        make_even(values, seen.divisors)
    size = np.exp2(np.frexp(np.abs(values).max(axis=0, initial=1e-30))[1]).astype(np.float32)
    values /= size  # within what float16 holds
    codes, scales, zeros = codes4(values, block, None if seen is None else seen.feedback)
    widened = scales.T.astype(np.float32) * size[:, None]
    by_block = np.ascontiguousarray(codes.T).reshape(outputs, count, block)
    padded = np.zeros((outputs, count + count % 2), np.uint8)
    padded[:, :count] = zeros.T
    return Packed(_nibbles(by_block), _narrowed(widened), _nibbles(padded))


def _narrowed(scales: Floats) -> Scales | Floats:
    """In float16 where that keeps their leading 11 bits."""
    with np.errstate(over="ignore"):
        narrow = scales.astype(np.float16)
    near = np.abs(narrow.astype(np.float32) - scales) <= np.abs(scales) * np.float32(2**-11)
    return narrow if near.all() else scales


def _nibbles(codes: Codes) -> Codes:
    """Two codes of 4 bits in a byte, the first in its lower half."""
    packed: Codes = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return packed
