"""LoRA as graph inputs, in the `rows` layout: each row of a batch brings its own A and B.

For every target module the graph has two inputs, A float32 [rows, in, rank] and B float32
[rows, rank, out], and computes ``y + (x A) B``. `rows` is the batch, or 1 when all rows use the
same tensors. Scales are folded into B by whoever fills the inputs; rank 0 is the base model.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.architectures import Decoder
from lorakit.graph.writer import Writer

HEAD = "lm_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTarget:
    """A module with LoRA inputs, and what those are called."""

    module: str
    in_features: int
    out_features: int

    @property
    def a(self) -> str:
        return f"{self.module}.lora_A"

    @property
    def b(self) -> str:
        return f"{self.module}.lora_B"


def targets(decoder: Decoder) -> dict[str, LoraTarget]:
    """Every module with LoRA inputs, by name: all linears of all layers.

    The vocabulary projection has none: with a large vocabulary even adding zeros costs 5% of a
    step, so whoever runs the graph adds its deltas from the output `final`.
    """
    return {
        name: LoraTarget(
            module=name, in_features=shape.in_features, out_features=shape.out_features
        )
        for name, shape in decoder.modules().items()
        if not shape.embedding and name != HEAD
    }


def lora(writer: Writer, target: LoraTarget, x: str, y: str) -> str:
    """``y + (x A) B`` for a linear whose input is x and whose output is y."""
    name = target.module
    a = writer.input(target.a, ["lora_rows", target.in_features, f"{name}.rank"])
    b = writer.input(target.b, ["lora_rows", f"{name}.rank", target.out_features])
    low = writer.node("MatMul", [x, a], f"{name}.xA")
    delta = writer.node("MatMul", [low, b], f"{name}.xAB")
    return writer.node("Add", [y, delta], f"{name}.adapted")
