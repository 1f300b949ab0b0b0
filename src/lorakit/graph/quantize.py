"""A linear layer's weight in each of its forms, and the nodes that multiply by it.

Every form takes x float32 [batch, new, in] and gives float32 [batch, new, out]. Weights come as
the checkpoint has them, [out, in]. Where activations are quantised too, each row of x has scales
of its own, so that no request depends on its batch mates. Rows in 8 bits are in graph.int8, blocks
in graph.blockwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.blockwise import NARROW, WIDE, block4, block8, block_size
from lorakit.graph.even import Seen
from lorakit.graph.int8 import rowwise_int8
from lorakit.graph.weights import transposed
from lorakit.graph.writer import Writer

Form = Callable[[Writer, str, str, Array], str]  # (writer, module, x, weight) -> y
Sight = Callable[[str], Seen | None]  # what a text has shown of a tensor, by its name


def unseen(x: str) -> None:
    """No text was shown."""


def float32(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Exact: the weight in float32."""
    stored = writer.weight(f"{module}.weight", transposed(weight, np.float32))
    return writer.node("MatMul", [x, stored], f"{module}.xW")


def float32_apart(writer: Writer, module: str, x: str, weight: Array) -> str:
    """The same row by row of a batch, so that none is rounded otherwise than alone: onnxruntime
    does so where a weight has more dimensions than x. y has them too."""
    stored = transposed(weight, np.float32)[np.newaxis, np.newaxis]
    return writer.node("MatMul", [x, writer.weight(f"{module}.weight", stored)], f"{module}.xW")


def float16(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Half the disk: stored as float16, widened once when the session opens."""
    stored = writer.weight(f"{module}.weight", transposed(weight, np.float16))
    wide = writer.node("Cast", [stored], f"{module}.weight.f32", to=TensorProto.FLOAT)
    return writer.node("MatMul", [x, wide], f"{module}.xW")


FORMS = ("float32", "float16", "rowwise8", "rowwise8_unsigned", "block8", "block4")
EVEN = ("rowwise8", "rowwise8_unsigned", "block4")  # those that make rows even first


def form_of(name: str, sight: Sight = unseen, wide: Collection[str] = ()) -> Form:
    """One of FORMS.

    sight: for forms that make rows even (graph.even). wide: modules that get 8 bits where others
    get 4. In blocks a weight whose inputs cannot be cut stays float32.
    """
    if name in ("float32", "float16"):
        return float32 if name == "float32" else float16

    def rows(writer: Writer, module: str, x: str, weight: Array) -> str:
        unsigned, seen = name == "rowwise8_unsigned", sight(x)
        divisors = seen.divisors if seen else None
        return rowwise_int8(writer, module, x, weight, unsigned=unsigned, divisors=divisors)

    def blocks(writer: Writer, module: str, x: str, weight: Array) -> str:
        narrow = name == "block4" and module not in wide
        block = block_size(weight.shape[1], NARROW if narrow else WIDE)
        if block is None:
            return float32(writer, module, x, weight)
        if narrow:
            return block4(writer, module, x, weight, block, sight(x))
        return block8(writer, module, x, weight, block)

    return blocks if name in ("block8", "block4") else rows
