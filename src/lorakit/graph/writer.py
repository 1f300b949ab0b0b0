"""A small ONNX graph under construction: nodes, constants, inputs and outputs by name.

It knows ONNX and nothing of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lorakit.adapter import Array
from lorakit.graph.weights import Store, rows_to_proto, to_proto

OPSET = 18
IR_VERSION = 9
CONTRIB = "com.microsoft"  # onnxruntime's own operators
Shape = Sequence[int | str]


class Writer:
    """Collects a graph. Every method that adds a node returns the name of its output."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._produced: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether a node produces this tensor already."""
        return name in self._produced

    def stored(self, name: str) -> bool:
        """Whether there is a constant of this name."""
        return name in self._initializers

    def kind(self, name: str) -> int:
        """The type of a constant that is stored."""
        return int(self._initializers[name].data_type)

    def input(self, name: str, shape: Shape | None, kind: int = TensorProto.FLOAT) -> str:
        """A shape of None is any, of any number of dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def default(self, name: str, array: Array, shape: Shape | None) -> str:
        """An input that may be left out, and is a small array then."""
        proto = self._initializers[name] = numpy_helper.from_array(array, name)
        return self.input(name, shape, proto.data_type)

    def output(self, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def weight(self, name: str, array: Array) -> str:
        """A constant tensor; the same name twice is the same tensor."""
        if name not in self._initializers:
            self._initializers[name] = to_proto(name, array, self._store)
        return name

    def rows(self, name: str, parts: Iterable[Array]) -> str:
        """A constant tensor from its rows in parts, of which one at a time is in memory."""
        if name not in self._initializers:
            self._initializers[name] = rows_to_proto(name, parts, self._store)
        return name

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Nodes that are added inside stand before all that are there."""
        before, self._nodes = self._nodes, []
        yield
        self._nodes += before

    def taken(self) -> list[onnx.NodeProto]:
        """The nodes that were added since this was last asked, which are then no longer here."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def declared(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.TensorProto]]:
        """Inputs and constants."""
        return self._inputs, list(self._initializers.values())

    def given(self) -> list[onnx.ValueInfoProto]:
        """Outputs."""
        return self._outputs

    def shape(self, *dims: int) -> str:
        """An int64 constant, named after its value so that equal ones are one."""
        return self.weight("shape." + "_".join(map(str, dims)), np.array(dims, np.int64))

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        outputs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """Add a node called `name`; its first output has that name unless `outputs` says more."""
        produced = list(outputs) or [name]
        self._produced.update(produced)
        self._nodes.append(
            helper.make_node(op, list(inputs), produced, name=name, domain=domain, **attributes)
        )
        return produced[0]

    def copied(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add a node like another, from and to other tensors."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.input[:], copy.output[:] = outputs[0], inputs, outputs
        self._produced.update(outputs)
        self._nodes.append(copy)

    def either(
        self,
        condition: str,
        name: str,
        outputs: Sequence[str],
        yes: Callable[[], Sequence[str]],
        no: Callable[[], Sequence[str]],
    ) -> str:
        """One of two branches, by an input of one bool; the other costs nothing.

        yes, no: add a branch's nodes and return what becomes `outputs`, float32 as those are. What
        they add is seen nowhere else.
        """
        branches = {
            "then_branch": self._branch(f"{name}.yes", yes),
            "else_branch": self._branch(f"{name}.no", no),
        }
        return self.node("If", [condition], name, outputs=outputs, **branches)

    def _branch(self, name: str, build: Callable[[], Sequence[str]]) -> onnx.GraphProto:
        outside, self._nodes, produced = self._nodes, [], set(self._produced)
        results = build()
        nodes, self._nodes, self._produced = self._nodes, outside, produced
        given = [helper.make_tensor_value_info(r, TensorProto.FLOAT, None) for r in results]
        return helper.make_graph(nodes, name, [], given)

    def finish(self, metadata: Mapping[str, str] | None = None) -> bytes:
        """The serialized model. metadata: what it says about itself."""
        graph = helper.make_graph(
            self._nodes,
            "lorakit",
            self._inputs,
            self._outputs,
            initializer=list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="lorakit")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(metadata or {}))
        content: bytes = model.SerializeToString()
        return content
