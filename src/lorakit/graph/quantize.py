"""A linear layer's weight in each of its forms, and the nodes that multiply by it.

Every form takes x float32 [batch, new, in] and gives float32 [batch, new, out]. Weights come as
the checkpoint has them, [out, in]. Where activations are quantised too, each row of x has scales
of its own, so that no request depends on its batch mates. 8-bit rows are in graph.int8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.int8 import parts, rowwise_int8
from lorakit.graph.writer import CONTRIB, Writer

Form = Callable[[Writer, str, str, Array], str]  # (writer, module, x, weight) -> y
Floats = npt.NDArray[np.float32]


def float32(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Exact: the weight in float32."""
    stored = writer.weight(f"{module}.weight", _transposed(weight, np.float32))
    return writer.node("MatMul", [x, stored], f"{module}.xW")


def float16(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Half the disk: stored as float16, widened once when the session opens."""
    stored = writer.weight(f"{module}.weight", _transposed(weight, np.float16))
    wide = writer.node("Cast", [stored], f"{module}.weight.f32", to=TensorProto.FLOAT)
    return writer.node("MatMul", [x, wide], f"{module}.xW")


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


ROWWISE = {"rowwise8": False, "rowwise8_unsigned": True}  # whole rows in 8 bits: is it unsigned
FORMS: dict[str, Form] = {
    "float32": float32,
    "float16": float16,
    "rowwise8": rowwise_int8,
    "rowwise8_unsigned": partial(rowwise_int8, unsigned=True),
    "block8": partial(blockwise, bits=8, block=128),
    "block4": partial(blockwise, bits=4, block=32),
}


def form_of(name: str, divisors: Mapping[str, Floats]) -> Form:
    """A form; divisors: of inputs by their names, for forms that make rows even (graph.int8)."""
    if name not in ROWWISE:
        return FORMS[name]
    return lambda writer, module, x, weight: rowwise_int8(
        writer, module, x, weight, unsigned=ROWWISE[name], divisors=divisors.get(x)
    )


def _transposed(weight: Array, dtype: type[np.generic]) -> Array:
    """[in, out] in a dtype, converted in parts so that little beside the result is in memory."""
    result = np.empty(weight.shape[::-1], dtype)
    for rows in parts(weight):
        result[:, rows] = weight[rows].T
    return result


def _blocks(weight: Array, bits: int, block: int) -> tuple[npt.NDArray[np.uint8], Floats]:
    """uint8 [out, blocks, bytes] and scales [out, blocks], symmetric around 2 ** (bits - 1).

    The value of largest magnitude in a block is put at the end of the range that is one longer.
    """
    outputs, inputs = weight.shape
    middle = 1 << (bits - 1)
    values = np.empty((outputs, inputs // block, block * bits // 8), np.uint8)
    scales = np.empty((outputs, inputs // block), np.float32)
    for rows in parts(weight):
        part = weight[rows].astype(np.float32).reshape(-1, inputs // block, block)
        at = np.abs(part).argmax(axis=2, keepdims=True)
        scale = np.take_along_axis(part, at, axis=2) / np.float32(-middle)
        safe = np.where(scale == 0, np.float32(1), scale)
        codes = np.clip(np.rint(part / safe) + middle, 0, 2 * middle - 1).astype(np.uint8)
        values[rows] = codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)
        scales[rows] = scale[..., 0]
    return values, scales
