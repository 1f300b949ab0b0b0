"""A linear layer's weight in each of its forms, and the nodes that multiply by it.

Every form takes x float32 [batch, new, in] and gives float32 [batch, new, out]. Weights come as
the checkpoint has them, [out, in]. Where activations are quantised too, each row of x has a scale
of its own, so that no request depends on its batch mates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.writer import CONTRIB, Writer

Form = Callable[[Writer, str, str, Array], str]  # (writer, module, x, weight) -> y
Floats = npt.NDArray[np.float32]
BLOCK_BYTES = 64 << 20  # float32 bytes of a weight that are in work at a time


def float32(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Exact: the weight in float32."""
    stored = writer.weight(f"{module}.weight", _transposed(weight, np.float32))
    return writer.node("MatMul", [x, stored], f"{module}.xW")


def float16(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Half the disk: stored as float16, widened once when the session opens."""
    stored = writer.weight(f"{module}.weight", _transposed(weight, np.float16))
    wide = writer.node("Cast", [stored], f"{module}.weight.f32", to=TensorProto.FLOAT)
    return writer.node("MatMul", [x, wide], f"{module}.xW")


def rowwise_int8(
    writer: Writer, module: str, x: str, weight: Array, *, unsigned: bool = False
) -> str:
    """8-bit weights with a scale per output, 8-bit activations with a scale per row.

    `unsigned` stores weights with a zero point of 128: for CPUs whose signed kernel saturates.
    """
    values, scales = _int8_columns(weight)
    zero = np.array(128 if unsigned else 0, np.uint8 if unsigned else np.int8)
    if unsigned:
        values = (values.view(np.uint8) ^ np.uint8(0x80)).view(np.uint8)
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


def blockwise(writer: Writer, module: str, x: str, weight: Array, *, bits: int, block: int) -> str:
    """4- or 8-bit weights with a scale per `block` inputs, computed with 8-bit activations.

    Blocks are smaller where the inputs do not divide; if nothing does, the weight stays float32.
    """
    outputs, inputs = weight.shape
    fitting = [size for size in (128, 64, 32, 16) if size <= block and inputs % size == 0]
    if not fitting:
        return float32(writer, module, x, weight)
    block = fitting[0]
    values, scales = _blocks(weight, bits, block)
    return writer.node(
        "MatMulNBits",
        [
            x,
            writer.weight(f"{module}.weight.q{bits}", values),
            writer.weight(f"{module}.weight.scale", scales),
        ],
        f"{module}.xW",
        domain=CONTRIB,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=block,
        accuracy_level=4,
    )


FORMS: dict[str, Form] = {
    "float32": float32,
    "float16": float16,
    "rowwise8": rowwise_int8,
    "rowwise8_unsigned": partial(rowwise_int8, unsigned=True),
    "block8": partial(blockwise, bits=8, block=128),
    "block4": partial(blockwise, bits=4, block=32),
}


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


def _transposed(weight: Array, dtype: type[np.generic]) -> Array:
    """[in, out] in a dtype, converted in parts so that little beside the result is in memory."""
    result = np.empty(weight.shape[::-1], dtype)
    for rows in _parts(weight):
        result[:, rows] = weight[rows].T
    return result


def _int8_columns(weight: Array) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 [in, out] and scales [out]: symmetric, the largest value of an output at 127."""
    values = np.empty(weight.shape[::-1], np.int8)
    scales = np.empty(len(weight), np.float32)
    for rows in _parts(weight):
        part = weight[rows].astype(np.float32)
        largest = np.maximum(np.abs(part).max(axis=1), np.float32(1e-30))
        scales[rows] = largest / 127
        values[:, rows] = np.rint(part / scales[rows, None]).astype(np.int8).T
    return values, scales


def _blocks(weight: Array, bits: int, block: int) -> tuple[npt.NDArray[np.uint8], Floats]:
    """uint8 [out, blocks, bytes] and scales [out, blocks], symmetric around 2 ** (bits - 1).

    The value of largest magnitude in a block is put at the end of the range that is one longer.
    """
    outputs, inputs = weight.shape
    middle = 1 << (bits - 1)
    values = np.empty((outputs, inputs // block, block * bits // 8), np.uint8)
    scales = np.empty((outputs, inputs // block), np.float32)
    for rows in _parts(weight):
        part = weight[rows].astype(np.float32).reshape(-1, inputs // block, block)
        at = np.abs(part).argmax(axis=2, keepdims=True)
        scale = np.take_along_axis(part, at, axis=2) / np.float32(-middle)
        safe = np.where(scale == 0, np.float32(1), scale)
        codes = np.clip(np.rint(part / safe) + middle, 0, 2 * middle - 1).astype(np.uint8)
        values[rows] = codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)
        scales[rows] = scale[..., 0]
    return values, scales


def _parts(weight: Array) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (4 * weight.shape[1]))
    for begin in range(0, len(weight), step):
        yield slice(begin, begin + step)
