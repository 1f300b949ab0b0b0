"""LoRA as graph inputs, in the `rows` layout: each row of a batch brings its own A and B.

For every target module the graph has two inputs, A float32 [rows, in, rank] and B float32
[rows, rank, out], and computes ``y + (x A) B``. `rows` is the batch, or 1 when all rows use the
same tensors. Scales are folded into B by whoever fills the inputs; rank 0 is the base model.

onnxruntime makes one product of rows that share a tensor, which rounds otherwise than a row alone;
codes of 8 bits would follow it. Targets that are `apart` may be bound so that it does not: it
multiplies each row by itself where a tensor has more dimensions than what it is multiplied with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.architectures import Decoder
from lorakit.graph.experts import Routed, row_mask
from lorakit.graph.writer import Shape, Writer

HEAD = "lm_head"
STEP = 4  # products of ranks that this divides are summed alike, with zeros behind or without


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTarget:
    """A module with LoRA inputs, what those are called, and how they are bound."""

    module: str
    in_features: int
    out_features: int
    experts: int | None = None
    apart: bool = False

    @property
    def a(self) -> str:
        return f"{self.module}.lora_A"

    @property
    def b(self) -> str:
        return f"{self.module}.lora_B"

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of a row's A and B; those of experts have an axis for them in front."""
        axes = () if self.experts is None else (self.experts,)
        return (*axes, self.in_features, rank), (*axes, rank, self.out_features)

    def bound(self, a: Array, b: Array, *, shared: bool) -> dict[str, Array]:
        """Some rows of A and of B by the names of their inputs, as those are to be bound; shared is
        whether one row is for several of a batch."""
        if self.apart and shared and a.shape[-1]:  # of rank 0 only the first row would be cleared
            a, b = a[np.newaxis], b[np.newaxis, np.newaxis]
        return {self.a: a, self.b: b}

    def padded(self, rank: int) -> int:
        """The rank that is stored: where rows are kept apart, one whose sums zeros do not alter."""
        return -(-rank // STEP) * STEP if self.apart else rank


def targets(decoder: Decoder, *, apart: bool = False) -> dict[str, LoraTarget]:
    """Every module with LoRA inputs, by name: all linears of all layers.

    The vocabulary projection has none: with a large vocabulary even adding zeros costs 5% of a
    step, so whoever runs the graph adds its deltas from the output `final`.
    """
    return {
        name: LoraTarget(
            module=name,
            in_features=shape.in_features,
            out_features=shape.out_features,
            experts=shape.experts,
            apart=apart and shape.experts is None,
        )
        for name, shape in decoder.modules().items()
        if not shape.embedding and name != HEAD
    }


def lora(writer: Writer, target: LoraTarget, x: str, y: str, kind: int = TensorProto.FLOAT) -> str:
    """``y + (x A) B`` for a linear whose input is x and whose output is y, both of a kind."""
    name = target.module
    shape_a: Shape = ["lora_rows", target.in_features, f"{name}.rank"]
    shape_b: Shape = ["lora_rows", f"{name}.rank", target.out_features]
    a = writer.input(target.a, None if target.apart else shape_a, kind)
    b = writer.input(target.b, None if target.apart else shape_b, kind)
    low = writer.node("MatMul", [x, a], f"{name}.xA")
    delta = writer.node("MatMul", [low, b], f"{name}.xAB")
    adapted = writer.node("Add", [y, delta], f"{name}.adapted")
    if not target.apart:
        return adapted
    if not writer.has(shape := "lora.shape"):  # [batch, new, any]
        rows = writer.node("Shape", [x], "lora.rows", end=2)
        writer.node("Concat", [rows, writer.shape(-1)], shape, axis=0)
    return writer.node("Reshape", [adapted, shape], f"{name}.row")


def expert_lora(
    w: Writer, target: LoraTarget, shared: Routed, number: int, x: str, y: str, result: str
) -> None:
    """The same for one expert, whose tokens x [1, some, in] are of any rows of the batch: each
    row's factors are applied to all, and what its own tokens give is kept. Makes `result`."""
    name = f"{target.module}.{number}"
    if number == 0:
        for factor, sizes in zip((target.a, target.b), target.shapes(0), strict=True):
            w.input(factor, ["lora_rows", *(size or f"{target.module}.rank" for size in sizes)])
    at = w.shape(number)
    first = w.node("Gather", [target.a, at], f"{name}.A", axis=1)
    second = w.node("Gather", [target.b, at], f"{name}.B", axis=1)
    low = w.node("MatMul", [x, first], f"{name}.low")
    own = w.node("Mul", [low, row_mask(w, shared, number, target.a)], f"{name}.own")
    each = w.node("MatMul", [own, second], f"{name}.each")
    delta = w.node("ReduceSum", [each, w.shape(0)], f"{name}.delta", keepdims=0)
    w.node("Add", [y, delta], f"{name}.adapted", outputs=[result])
