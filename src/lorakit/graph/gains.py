"""More inputs for adapters than low-rank ones, put into a graph that is built.

With "gains" every linear has a gain and a shift of each output, y = gain * (W x) + bias + (x A) B +
shift: DoRA's magnitudes, a bias of B, biases that are replaced. With "norms" every norm has weights
of its own. These are float32 [lora_rows, 1, ...]. With "experts" those have low-rank inputs too.
Weights stay where they are: a session opens on the files of the graph that was built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.graph.experts import Routed
from lorakit.graph.lora import LoraTarget, expert_lora, targets
from lorakit.graph.weights import MemoryStore
from lorakit.graph.writer import Writer

Floats = npt.NDArray[np.float32]
Extra = Literal["gains", "norms", "experts"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gains:
    """The inputs that `extended` adds for a base, by module.

    linears: how many outputs each has. norms: what each multiplies by, in the shape of a row.
    """

    linears: Mapping[str, int] = field(default_factory=dict)
    norms: Mapping[str, Floats] = field(default_factory=dict)

    def values(self) -> Iterator[tuple[str, Floats]]:
        """Every input by name, and a row of it that changes nothing."""
        for module, size in self.linears.items():
            yield gain_of(module), np.ones((1, size), np.float32)
            yield shift_of(module), np.zeros((1, size), np.float32)
        for module, own in self.norms.items():
            yield scale_of(module), own

    @classmethod
    def of(cls, base: Base, extras: Collection[Extra]) -> Gains:
        linears = {
            name: target.out_features
            for name, target in targets(base.decoder).items()
            if target.experts is None
        }
        own = {
            name: norm_scale(base, base.tensor(f"{name}.weight")).reshape(shape)
            for name, shape in norms(base).items()
        }
        return cls(
            linears=linears if "gains" in extras else {}, norms=own if "norms" in extras else {}
        )


NO_GAINS = Gains()


def gain_of(module: str) -> str:
    """The input that the outputs of a linear are multiplied by, [lora_rows, 1, out]."""
    return f"{module}.gain"


def shift_of(module: str) -> str:
    """The input that is added to the outputs of a linear, [lora_rows, 1, out]."""
    return f"{module}.shift"


def scale_of(module: str) -> str:
    """The input with a norm's weights, its offset added, [lora_rows, 1, ..., size]."""
    return f"{module}.scale"


def norms(base: Base) -> dict[str, tuple[int, ...]]:
    """Every norm by module, and a row's shape of its input; those of heads have one more axis."""
    decoder = base.decoder
    of_heads = {f"{n}_norm" for n in "qk"} if decoder.architecture.qk_norm else set()
    return {
        name.removesuffix(".weight"): (1, *shape)
        if name.split(".")[-2] not in of_heads
        else (1, 1, *shape)
        for name, shape in decoder.parameters().items()
        if len(shape) == 1 and name.endswith(".weight")
    }


def norm_scale(base: Base, weight: Array) -> Floats:
    """What a norm multiplies by, from its parameter."""
    offset = np.float32(base.decoder.architecture.norm_offset)
    scale: Floats = np.asarray(weight, np.float32) + offset
    return scale


def extended(model: bytes, base: Base, extras: Collection[Extra]) -> bytes:
    """A graph of `graph.build` with the inputs of `Gains.of`, and with those of experts."""
    proto = onnx.ModelProto.FromString(model)
    graph = proto.graph
    adapted = {node.name.removesuffix(".xA") for node in graph.node if node.name.endswith(".xA")}
    sizes = {each.name: each.dims for each in graph.initializer}
    for name, value in Gains.of(base, extras).values():
        shape = ["lora_rows", *value.shape]
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    nodes, experts = [], _Experts(targets(base.decoder), Writer(MemoryStore()))
    for node in graph.node:
        nodes.append(node)
        module, _, part = node.name.rpartition(".")
        if "gains" in extras and module in adapted and part in ("xW", "xAB"):
            op, name = ("Mul", gain_of(module)) if part == "xW" else ("Add", shift_of(module))
            nodes.append(_followed(node, op, name))
        elif "norms" in extras and node.op_type == "SimplifiedLayerNormalization":
            nodes.append(_followed(node, "Mul", scale_of(module)))
            node.input[1] = _ones(graph, sizes[node.input[1]][0])
        elif "experts" in extras and part == "xW":
            nodes += experts.added(node, module)
    inputs, constants = experts.writer.declared()
    held = {each.name for each in graph.initializer}
    graph.input.extend(inputs)
    graph.initializer.extend([each for each in constants if each.name not in held])
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


@dataclass(frozen=True, slots=True)
class _Experts:
    """Low-rank inputs of experts, as nodes that follow their products."""

    targets: Mapping[str, LoraTarget]
    writer: Writer

    def added(self, node: onnx.NodeProto, name: str) -> list[onnx.NodeProto]:
        """name: of one expert's projection; the product's output gets another."""
        module, _, number = name.rpartition(".")
        target = self.targets.get(module)
        if target is None or target.experts is None:
            return []
        at, expert = module.rpartition(".experts.")[0], int(number)
        shared = Routed(at=at, count=target.experts)
        x = shared.inner(expert) if module.endswith(".down_proj") else shared.reads(expert)
        result = node.output[0]
        node.output[0] = f"{result}.plain"
        expert_lora(self.writer, target, shared, expert, x, node.output[0], result)
        return self.writer.taken()


def _followed(node: onnx.NodeProto, op: str, name: str) -> onnx.NodeProto:
    """A node that gives what another gave, changed by an input; the other's gets a new name."""
    result = node.output[0]
    node.output[0] = f"{result}.plain"
    return helper.make_node(op, [node.output[0], name], [result], name=f"{result}.by_row")


def _ones(graph: onnx.GraphProto, size: int) -> str:
    name = f"ones.{size}"
    if all(each.name != name for each in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.ones(size, np.float32), name))
    return name
