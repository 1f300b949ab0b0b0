"""Rows of different numbers of new tokens in one run: packed tokens, and a lane for each row.

Linears, norms and activations see the tokens of all rows one behind the other, [1, sum, ...].
Attention and adapters are cut into lanes, each of which has one row's tokens, KV cache and factors:
what a row computes there is what it would compute alone. All of this is in branches, and its inputs
may be left out; a run that leaves them out is one of a batch, and pays for none of it.

Inputs, beside keys, values and factors, whose names `lane_of` gives; L is the number of lanes:
    packed     bool []      whether the tokens are packed
    segmented  bool []      whether each lane has factors of its own, or all have the graph's
    sizes      int64 [L]    tokens of each lane; 0 for one that is idle
    busy.laneN      bool []     whether it has tokens
    lengths.laneN   int32 [1]   tokens of its row after this step, less one
    total.laneN     int32 []    tokens of its row after this step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorakit.graph.writer import Shape, Writer

PACKED, SEGMENTED, SIZES = "packed", "segmented", "sizes"
BUSY, LENGTHS, TOTAL = "busy", "lengths", "total"
Pair = tuple[str, str]
Operator = Callable[[str, Sequence[str], Pair, Pair, Sequence[str]], None]


def lane_of(name: str, lane: int) -> str:
    """A lane's own input or output beside the one that batches have."""
    return f"{name}.lane{lane}"


@dataclass(slots=True, kw_only=True)
class Lanes:
    """Writes the lanes of a graph. count: how many rows are packed at most."""

    writer: Writer
    count: int
    packed: str = field(init=False)
    segmented: str = field(init=False)
    _sizes: str = field(init=False)
    _busy: list[str] = field(init=False)
    _lengths: list[Pair] = field(init=False)

    def __post_init__(self) -> None:
        w = self.writer
        self.packed = w.default(PACKED, np.array(False), [])
        self.segmented = w.default(SEGMENTED, np.array(False), [])
        self._sizes = w.default(SIZES, np.zeros(self.count, np.int64), [self.count])
        self._busy = [w.default(name, np.array(False), []) for name in self._each(BUSY)]
        lengths = [w.default(name, np.zeros(1, np.int32), [1]) for name in self._each(LENGTHS)]
        totals = [w.default(name, np.zeros((), np.int32), []) for name in self._each(TOTAL)]
        self._lengths = list(zip(lengths, totals, strict=True))

    def attention(
        self,
        name: str,
        projected: Sequence[str],
        past: Pair,
        present: Pair,
        lengths: Pair,
        shape: tuple[int, int],
        operator: Operator,
    ) -> str:
        """Attention of a batch, or of lanes; what it gives is called `name`.

        projected: query, key and value [batch, new, ...]. past, present, lengths: of a batch; a
        lane has its own. shape: heads of a key, and their size. operator: writes the node, given
        the name of what it attends to, projections, past, lengths and total, and all its outputs.
        """
        w, lanes = self.writer, range(self.count)
        heads, dim = shape
        nothing, room = np.zeros((1, heads, 0, dim), np.float32), [1, heads, "lane.capacity", dim]
        pasts = [self._named(past, n, lambda key: w.default(key, nothing, room)) for n in lanes]
        presents = [self._named(present, n, lambda key: w.output(key, room)) for n in lanes]
        own = [key for pair in presents for key in pair]

        def batched() -> list[str]:
            found = [f"{each}.batch" for each in (name, *present)]
            operator(found[0], projected, past, lengths, found)
            kept = [key for pair in pasts for key in pair]
            return found + [self._same(key, ".batch") for key in kept]

        def packed() -> list[str]:
            parts = [self._split(each, f"{name}.{n}") for n, each in enumerate(projected)]
            found = [
                self._lane(n, name, [part[n] for part in parts], pasts[n], operator) for n in lanes
            ]
            whole = w.node("Concat", [each[0] for each in found], f"{name}.packed", axis=1)
            kept = [self._same(key, ".packed") for key in past]
            return [whole, *kept, *(key for each in found for key in each[1:])]

        return w.either(self.packed, name, [name, *present, *own], packed, batched)

    def products(
        self, name: str, x: str, factors: Sequence[Pair]
    ) -> str:
        """(x A) B of each lane's tokens by its own factors, one behind the other."""
        w, parts = self.writer, self._split(x, f"{name}.x")
        found = []
        for lane, (part, (a, b)) in enumerate(zip(parts, factors, strict=True)):
            low = w.node("MatMul", [part, a], lane_of(f"{name}.xA", lane))
            found.append(w.node("MatMul", [low, b], lane_of(f"{name}.xAB", lane)))
        return w.node("Concat", found, f"{name}.xAB.lanes", axis=1)

    def factors(self, names: Pair, shapes: Sequence[Shape]) -> list[Pair]:
        """Inputs for the lanes' own factors, beside those of a batch. shapes: of either, with rank
        0 where nothing is given, as [1, in, rank] and [1, rank, out]."""
        w, found = self.writer, []
        for lane in range(self.count):
            a, b = (
                w.default(lane_of(name, lane), _nothing(shape), shape)
                for name, shape in zip(names, shapes, strict=True)
            )
            found.append((a, b))
        return found

    def _lane(
        self, lane: int, name: str, projected: Sequence[str], past: Pair, operator: Operator
    ) -> list[str]:
        """One row's attention, keys and values; an idle lane's are as they were."""
        at = lane_of(name, lane)
        found = [f"{at}.{part}" for part in ("found", "key", "value")]
        busy = [f"{each}.busy" for each in found]

        def attended() -> list[str]:
            operator(busy[0], projected, past, self._lengths[lane], busy)
            return busy

        def idle() -> list[str]:
            return [self._same(each, f".{at}.idle") for each in (projected[0], *past)]

        self.writer.either(self._busy[lane], at, found, attended, idle)
        return found

    def _split(self, x: str, name: str) -> list[str]:
        parts = [lane_of(name, lane) for lane in range(self.count)]
        self.writer.node("Split", [x, self._sizes], f"{name}.split", outputs=parts, axis=1)
        return parts

    def _same(self, name: str, ending: str) -> str:
        return self.writer.node("Identity", [name], f"{name}{ending}")

    def _each(self, name: str) -> list[str]:
        return [lane_of(name, lane) for lane in range(self.count)]

    def _named(self, pair: Pair, lane: int, make: Callable[[str], str]) -> Pair:
        one, other = (make(lane_of(name, lane)) for name in pair)
        return one, other


def _nothing(shape: Shape) -> np.ndarray:
    return np.zeros([size if isinstance(size, int) else 0 for size in shape], np.float32)
