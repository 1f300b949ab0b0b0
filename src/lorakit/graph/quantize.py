"""A linear layer's weight in each of its forms, and the nodes that multiply by it.

Every form takes x float32 [batch, new, in] and gives float32 [batch, new, out]. Weights come as
the checkpoint has them, [out, in].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.writer import Writer

Form = Callable[[Writer, str, str, Array], str]  # (writer, module, x, weight) -> y


def float32(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Exact: the weight in float32."""
    stored = writer.weight(f"{module}.weight", _transposed(weight, np.float32))
    return writer.node("MatMul", [x, stored], f"{module}.xW")


def float16(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Half the disk: stored as float16, widened once when the session opens."""
    stored = writer.weight(f"{module}.weight", _transposed(weight, np.float16))
    wide = writer.node("Cast", [stored], f"{module}.weight.f32", to=TensorProto.FLOAT)
    return writer.node("MatMul", [x, wide], f"{module}.xW")


def _transposed(weight: Array, dtype: type[np.generic]) -> Array:
    return np.ascontiguousarray(weight.astype(dtype, copy=False).T)


FORMS: dict[str, Form] = {"float32": float32, "float16": float16}
