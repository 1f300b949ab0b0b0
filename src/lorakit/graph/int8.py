"""A linear in 8-bit integers: weights with a scale per output, activations with a scale per row.

One large value coarsens all that share its scale, and what a decoder's linears read has channels
that are large for every token, and single values that are larger still. So a row is made even
first: its channels are divided by what a text has shown of them (`balanced`), and rotated in small
blocks, which spreads a large value over its block. The weights undo both, once and for all. Only
the product in integers sees that: adapters read what the model computes.

A row's codes depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array
from lorakit.graph.writer import CONTRIB, Writer

BLOCK = 32  # most channels that are rotated together; larger blocks cost more than they gain
BLOCK_BYTES = 64 << 20  # float32 bytes of a weight that are in work at a time
LEAST = 0.01  # of the mean: how small a channel is taken to be at least
Floats = npt.NDArray[np.float32]


def rowwise_int8(
    writer: Writer,
    module: str,
    x: str,
    weight: Array,
    *,
    unsigned: bool = False,
    divisors: Floats | None = None,
) -> str:
    """8-bit weights with a scale per output, 8-bit activations with a scale per row.

    `unsigned` stores weights with a zero point of 128: for CPUs whose signed kernel saturates.
    divisors: of x, per channel, the same for all that read it; rows are not made even without.
    """
    values, scales = int8_columns(weight, divisors)
    zero = np.array(128 if unsigned else 0, np.uint8 if unsigned else np.int8)
    if unsigned:
        values = (values.view(np.uint8) ^ np.uint8(0x80)).view(np.uint8)
    if divisors is not None:
        x = _even(writer, x, divisors)
    quantized, size = _quantize_rows(writer, x)
    unit_scale, unit_zero = _unit_scale(writer)
    inputs = [
        quantized,
        writer.weight(f"{module}.weight.q8", values),
        unit_scale,
        writer.weight(f"{module}.weight.scale", scales),
        unit_zero,
        writer.weight(f"zero.weight.{zero.dtype}", zero),
    ]
    y = writer.node("MatMulIntegerToFloat", inputs, f"{module}.xW.unit", domain=CONTRIB)
    return writer.node("Mul", [y, size], f"{module}.xW")


def int8_columns(
    weight: Array, divisors: Floats | None = None
) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 [in, out] and scales [out]: symmetric, the largest value of an output at 127.

    With divisors of the input, for rows that `_even` has made even.
    """
    values = np.empty(weight.shape[::-1], np.int8)
    scales = np.empty(len(weight), np.float32)
    for rows in parts(weight):
        part = weight[rows].astype(np.float32)
        if divisors is not None:
            part = _turned(part * divisors, len(rotation(weight.shape[1])))
        largest = np.maximum(np.abs(part).max(axis=1), np.float32(1e-30))
        scales[rows] = largest / 127
        values[:, rows] = np.rint(part / scales[rows, None]).astype(np.int8).T
    return values, scales


def _turned(values: Floats, size: int) -> Floats:
    """Blocks of `size` times their rotation, over its size. By sums, which all CPUs round alike."""
    shape, step = values.shape, 1
    while step < size:
        pairs = values.reshape(-1, 2, step)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        step *= 2
    return values.reshape(shape) / np.float32(size)


def balanced(inputs: Floats, weights: Floats) -> Floats:
    """Divisors of channels, from the mean squares of what they hold and of their weights.

    The error of a product grows with the norms of both its sides: it is least where each channel
    is as large on one as on the other. Their geometric mean is 1.
    """
    x, w = (np.maximum(m, max(LEAST**2 * float(m.mean()), 1e-30)) for m in (inputs, weights))
    logarithms = (np.log(x) - np.log(w)) / 4
    result: Floats = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return result


def rotation(channels: int) -> Floats:
    """A Hadamard matrix, of +1 and -1 and symmetric: its square is its size times the identity.

    As large as BLOCK, or as the channels can be cut into.
    """
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < BLOCK and channels % (2 * len(matrix)) == 0:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def parts(weight: Array) -> Iterator[slice]:
    """Outputs of a weight that are worked on together."""
    step = max(1, BLOCK_BYTES // (4 * weight.shape[1]))
    for begin in range(0, len(weight), step):
        yield slice(begin, begin + step)


def _even(writer: Writer, x: str, divisors: Floats) -> str:
    """x divided and rotated, once for all readers of x."""
    even = f"{x}.even"
    if not writer.has(even):
        turn, factors = rotation(len(divisors)), np.float32(1) / divisors
        scaled = writer.node("Mul", [x, writer.weight(f"{x}.factors", factors)], f"{x}.scaled")
        blocks = writer.node("Reshape", [scaled, writer.shape(0, -1, len(turn))], f"{x}.blocks")
        matrix = writer.weight(f"rotation.{len(turn)}", turn)
        turned = writer.node("MatMul", [blocks, matrix], f"{x}.turned")
        writer.node("Reshape", [turned, writer.shape(0, -1, len(divisors))], even)
    return even


def _quantize_rows(writer: Writer, x: str) -> tuple[str, str]:
    """x as uint8 around 128 and each row's largest magnitude, made once for all readers of x.

    A row of zeros gives any codes, times a magnitude of zero.
    """
    quantized, size = f"{x}.q8", f"{x}.size"
    if not writer.has(quantized):
        last = writer.shape(2)  # -1 makes onnxruntime 1.31 return a wrong shape for no rows
        writer.node("ReduceMax", [writer.node("Abs", [x], f"{x}.abs"), last], size)
        unit = writer.node("Div", [x, size], f"{x}.unit")
        writer.node("QuantizeLinear", [unit, *_unit_scale(writer)], quantized)
    return quantized, size


def _unit_scale(writer: Writer) -> tuple[str, str]:
    """Scale and zero point that put [-1, 1] on [1, 255]."""
    scale = writer.weight("scale.unit", np.array(1 / 127, np.float32))
    return scale, writer.weight("zero.unit", np.array(128, np.uint8))
