"""Linears in blocks: MatMulNBits, with scales per block of inputs and 8-bit activations.

The operator makes codes of a row's values block by block, so that a large one coarsens few others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.codes4 import Codes, Scales, codes4
from lorakit.graph.even import Seen, even, evened
from lorakit.graph.weights import parts
from lorakit.graph.writer import CONTRIB, Writer

SIZES = (64, 32, 16)  # that the operator takes, and no larger ones
WIDE, NARROW = 64, 32  # inputs of a block in 8 bits and in 4; in 128 a row alone rounds otherwise


@dataclass(frozen=True, slots=True)
class Packed:
    """codes: uint8 [out, blocks, bytes], a smaller index in lower bits. scales: [out, blocks].
    zeros: codes of zero, packed alike, uint8 [out, bytes]; None is the middle of the range."""

    codes: Codes
    scales: Scales
    zeros: Codes | None = None


def block_size(inputs: int, most: int) -> int | None:
    """The largest block that inputs can be cut into; None where there is none."""
    return next((size for size in SIZES if size <= most and inputs % size == 0), None)


def block8(writer: Writer, module: str, x: str, weight: Array, block: int) -> str:
    """8-bit weights, symmetric."""
    return _product(writer, module, x, weight.shape, _packed8(weight, block), bits=8)


def block4(
    writer: Writer, module: str, x: str, weight: Array, block: int, seen: Seen | None = None
) -> str:
    """4-bit weights with zero points. seen: of x; its rows are made even as 8-bit ones are."""
    if seen is not None:
        x = even(writer, x, seen.divisors)
    return _product(writer, module, x, weight.shape, packed4(weight, block, seen), bits=4)


def _product(
    writer: Writer, module: str, x: str, shape: tuple[int, ...], packed: Packed, *, bits: int
) -> str:
    outputs, inputs = shape
    scales = writer.weight(f"{module}.weight.scale", packed.scales)
    scales = writer.node("Cast", [scales], f"{scales}.f32", to=TensorProto.FLOAT)
    named = [writer.weight(f"{module}.weight.q{bits}", packed.codes), scales]
    if packed.zeros is not None:
        named.append(writer.weight(f"{module}.weight.zero", packed.zeros))
    return writer.node(
        "MatMulNBits",
        [x, *named],
        f"{module}.xW",
        domain=CONTRIB,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=inputs // packed.scales.shape[1],
        accuracy_level=4,
    )


def _packed8(weight: Array, block: int) -> Packed:
    """Symmetric around 128. The largest value of a block is at the end that is one longer."""
    outputs, inputs = weight.shape
    codes = np.empty((outputs, inputs // block, block), np.uint8)
    scales = np.empty((outputs, inputs // block), np.float16)
    for rows in parts(weight):
        part = weight[rows].astype(np.float32).reshape(-1, inputs // block, block)
        at = np.abs(part).argmax(axis=2, keepdims=True)
        scale = (np.take_along_axis(part, at, axis=2) / np.float32(-128)).astype(np.float16)
        safe = np.where(scale == 0, np.float32(1), scale.astype(np.float32))
        codes[rows] = np.clip(np.rint(part / safe) + 128, 0, 255).astype(np.uint8)
        scales[rows] = scale[..., 0]
    return Packed(codes, scales)


def packed4(weight: Array, block: int, seen: Seen | None = None) -> Packed:
    """Codes around zero points; see graph.codes4."""
    outputs, inputs = weight.shape
    count = inputs // block
    values = weight.astype(np.float32)
    if seen is not None:
        values = evened(values, seen.divisors)
    values = np.ascontiguousarray(values.T)
    codes, scales, zeros = codes4(values, block, None if seen is None else seen.feedback)
    by_block = np.ascontiguousarray(codes.T).reshape(outputs, count, block)
    padded = np.zeros((outputs, count + count % 2), np.uint8)
    padded[:, :count] = zeros.T
    return Packed(_nibbles(by_block), np.ascontiguousarray(scales.T), _nibbles(padded))


def _nibbles(codes: Codes) -> Codes:
    """Two codes of 4 bits in a byte, the first in its lower half."""
    packed: Codes = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return packed
