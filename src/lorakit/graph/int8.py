"""A linear in 8-bit integers: weights with a scale per output, activations with a scale per row.

A row's codes depend on that row alone. What makes rows even beforehand is in graph.even.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array
from lorakit.graph.even import Floats, even, make_even
from lorakit.graph.weights import parts, transposed
from lorakit.graph.writer import CONTRIB, Writer

SIGNED = np.array(0, np.int8)  # the zero point of signed codes


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
        x = even(writer, x, divisors)
    rows = quantize_rows(writer, x)
    codes = writer.weight(f"{module}.weight.q8", values)
    sizes = writer.weight(f"{module}.weight.scale", scales)
    return int8_product(writer, f"{module}.xW", rows, codes, sizes, zero)


def int8_product(
    writer: Writer, name: str, rows: tuple[str, str], codes: str, scales: str, zero: Array = SIGNED
) -> str:
    """Quantised rows times stored codes [in, out] and scales [out]."""
    quantized, size = rows
    unit_scale, unit_zero = _unit_scale(writer)
    zeros = writer.weight(f"zero.weight.{zero.dtype}", zero)
    inputs = [quantized, codes, unit_scale, scales, unit_zero, zeros]
    y = writer.node("MatMulIntegerToFloat", inputs, f"{name}.unit", domain=CONTRIB)
    return writer.node("Mul", [y, size], name)


def int8_columns(
    weight: Array, divisors: Floats | None = None
) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 [in, out] and scales [out]: symmetric, the largest value of an output at 127.

    With divisors of the input, for rows that `even` has made so.
    """
    values = np.empty(weight.shape[::-1], np.int8)
    scales = np.empty(len(weight), np.float32)
    for rows in parts(weight):
        part = transposed(weight[rows], np.float32)
        if divisors is not None:
            make_even(part, divisors)
        largest = np.maximum(np.maximum(part.max(axis=0), -part.min(axis=0)), np.float32(1e-30))
        scales[rows] = largest / 127
        part /= scales[rows]
        values[:, rows] = np.rint(part, part)
    return values, scales


def quantize_rows(writer: Writer, x: str) -> tuple[str, str]:
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
