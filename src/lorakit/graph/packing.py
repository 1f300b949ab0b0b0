"""Rows of different numbers of new tokens in one run, put into a graph that is built.

Linears, norms and activations see the tokens of all rows one behind the other, [1, sum, ...].
Attention and adapters are cut into lanes, each of which has one row's tokens, KV cache and factors:
what a row computes there is what it computes alone. All this is in branches, and its inputs may be
left out: then a run is one of a batch, as before. Weights stay where they are: a session opens on
the files of the graph that was built.

Inputs, beside keys, values and factors, whose names `lane_of` gives; L is the number of lanes:
    packed     bool []          whether the tokens are packed
    segmented  bool []          whether each lane has factors of its own, or all have the batch's
    sizes      int64 [L]        tokens of each lane; 0 for one that is idle
    busy.laneN      bool []     whether it has tokens
    lengths.laneN   int32 [1]   tokens of its row after this step, less one
    total.laneN     int32 []    tokens of its row after this step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from lorakit.base.folder import Base
from lorakit.graph.lora import LoraTarget, targets
from lorakit.graph.weights import MemoryStore
from lorakit.graph.writer import Shape, Writer

PACKED, SEGMENTED, SIZES = "packed", "segmented", "sizes"
BUSY, LENGTHS, TOTAL = "busy", "lengths", "total"
ATTENTION = "GroupQueryAttention"
PROJECTED, PAST, ENDS = slice(0, 3), slice(3, 5), slice(5, 7)  # of its inputs
TOKENS = 1  # the axis that is cut into lanes
Node = onnx.NodeProto
Product = tuple[Node, Node]  # x A, and that times B


def lane_of(name: str, lane: int) -> str:
    """A lane's own input or output, by what a batch's is called."""
    return f"{name}.lane{lane}"


def packed(model: bytes, base: Base, lanes: int) -> bytes:
    """A graph of `graph.build`, or of `gains.extended`, with room for so many packed rows.

    Not of a mixture of experts, whose router would round otherwise, and whose adapters count on
    rows of equal lengths.
    """
    proto = onnx.ModelProto.FromString(model)
    graph, nodes = proto.graph, []
    products = _products(graph.node)
    held = {node.name for group in products.values() for pair in group for node in pair}
    branches = _Branches(lanes, base, targets(base.decoder))
    for node in graph.node:
        if node.op_type == ATTENTION:
            branches.attention(node)
        elif node.name in products:
            branches.products(products[node.name])
        elif node.name not in held:
            nodes.append(node)
        nodes += branches.writer.taken()
    inputs, constants = branches.writer.declared()
    known = {each.name for each in graph.initializer}
    graph.input.extend(inputs)
    graph.output.extend(branches.writer.given())
    graph.initializer.extend(each for each in constants if each.name not in known)
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def _products(nodes: Sequence[Node]) -> dict[str, list[Product]]:
    """Both products of every adapted linear, of all that read the same by the first's name."""
    second = {node.input[0]: node for node in nodes if node.name.endswith(".xAB")}
    found: dict[str, list[Product]] = {}
    firsts: dict[str, str] = {}  # by what is read
    for node in nodes:
        if node.name.endswith(".xA"):
            first = firsts.setdefault(node.input[0], node.name)
            found.setdefault(first, []).append((node, second[node.output[0]]))
    return found


@dataclass(slots=True)
class _Branches:
    """What runs instead of nodes: they themselves, or lanes."""

    count: int
    base: Base
    targets: Mapping[str, LoraTarget]
    writer: Writer = field(init=False)
    _busy: list[str] = field(init=False)
    _ends: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        w = self.writer = Writer(MemoryStore())
        w.default(PACKED, np.array(False), [])
        w.default(SEGMENTED, np.array(False), [])
        w.default(SIZES, np.zeros(self.count, np.int64), [self.count])
        lanes, none = range(self.count), np.zeros(1, np.int32)
        self._busy = [w.default(lane_of(BUSY, n), np.array(False), []) for n in lanes]
        self._ends = [
            [w.default(lane_of(LENGTHS, n), none, [1]), w.default(lane_of(TOTAL, n), none[0], [])]
            for n in lanes
        ]

    def attention(self, node: Node) -> None:
        """Of a batch, or of each lane."""
        w, decoder, lanes = self.writer, self.base.decoder, range(self.count)
        name, past = node.output[0], node.input[PAST]
        empty = np.zeros((1, decoder.kv_heads, 0, decoder.head_dim), np.float32)
        room: Shape = [1, decoder.kv_heads, "lane.capacity", decoder.head_dim]
        pasts = [[w.default(lane_of(each, n), empty, room) for each in past] for n in lanes]
        presents = [w.output(lane_of(each, n), room) for n in lanes for each in node.output[1:]]

        def batch() -> list[str]:
            found = [f"{each}.batch" for each in node.output]
            w.copied(node, node.input, found)
            idle = [f"{each}.batch" for each in presents]
            none = w.shape(*[0] * len(idle))
            w.node("Split", [pasts[0][0], none], f"{name}.idle", outputs=idle, axis=2)
            return found + idle

        def packed() -> list[str]:
            cut = [self._split(x, f"{name}.{n}") for n, x in enumerate(node.input[PROJECTED])]
            found = [self._lane(node, n, [part[n] for part in cut], pasts[n]) for n in lanes]
            whole = w.node("Concat", [own[0] for own in found], f"{name}.whole", axis=TOKENS)
            kept = [w.node("Identity", [each], f"{each}.kept") for each in past]
            return [whole, *kept, *(each for own in found for each in own[1:])]

        w.either(PACKED, f"{name}.rows", [*node.output, *presents], packed, batch)

    def _lane(
        self, node: Node, lane: int, projected: Sequence[str], past: Sequence[str]
    ) -> list[str]:
        """One row's attention, keys and values; those of an idle lane are as they were."""
        w, at = self.writer, lane_of(node.output[0], lane)
        found = [f"{at}.{part}" for part in ("attended", "key", "value")]

        def busy() -> list[str]:
            outputs = [f"{each}.busy" for each in found]
            others = node.input[ENDS.stop :]
            w.copied(node, [*projected, *past, *self._ends[lane], *others], outputs)
            return outputs

        def idle() -> list[str]:
            given = zip(found, (projected[0], *past), strict=True)
            return [w.node("Identity", [each], f"{result}.idle") for result, each in given]

        w.either(self._busy[lane], at, found, busy, idle)
        return found

    def products(self, group: Sequence[Product]) -> None:
        """(x A) B of a batch for linears that read the same x, or of each lane's tokens."""
        w, lanes = self.writer, range(self.count)
        own = [self._factors(first.name.removesuffix(".xA")) for first, _ in group]
        results = [second.output[0] for _, second in group]

        def batch() -> list[str]:
            for first, second in group:
                w.copied(first, first.input, first.output)
                w.copied(second, second.input, [f"{second.output[0]}.batch"])
            return [f"{each}.batch" for each in results]

        def packed() -> list[str]:
            parts, found = self._split(group[0][0].input[0], f"{results[0]}.x"), []
            for result, factors in zip(results, own, strict=True):
                each = [lane_of(result, n) for n in lanes]
                for n, (a, b) in enumerate(factors):
                    low = w.node("MatMul", [parts[n], a], f"{each[n]}.low")
                    w.node("MatMul", [low, b], each[n])
                found.append(w.node("Concat", each, f"{result}.whole", axis=TOKENS))
            return found

        w.either(SEGMENTED, f"{results[0]}.rows", results, packed, batch)

    def _factors(self, module: str) -> list[list[str]]:
        """Inputs A [1, in, rank] and B [1, rank, out] of each lane."""
        target, found = self.targets[module], []
        for lane in range(self.count):
            pair = []
            for name, size in zip((target.a, target.b), target.shapes(0), strict=True):
                shape: Shape = [1, *(each or f"{lane_of(module, lane)}.rank" for each in size)]
                nothing = np.zeros((1, *size), np.float32)
                pair.append(self.writer.default(lane_of(name, lane), nothing, shape))
            found.append(pair)
        return found

    def _split(self, x: str, name: str) -> list[str]:
        parts = [lane_of(name, lane) for lane in range(self.count)]
        self.writer.node("Split", [x, SIZES], f"{name}.split", outputs=parts, axis=TOKENS)
        return parts
