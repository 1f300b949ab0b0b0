"""Adapters in the graph itself: their factors are weights, beside those of the base.

Several are chosen among by a number for each row of a batch, 0 is the base: one file for whoever
cannot fill LoRA inputs. A single one needs no choice: a file that looks merged from outside, whose
base may be in 4 bits while what was trained keeps all of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from lorakit.adapter import Adapter, Delta
from lorakit.errors import FormatError, ParameterError
from lorakit.formats.express import require_expressible
from lorakit.formats.folding import folded
from lorakit.formats.web import cannot_express
from lorakit.graph.writer import Writer

MAX_COMPOSED = 16  # adapters in one file
SELECTOR = "adapter"  # int64 [batch_size]: which adapter a row uses, from 1; 0 is the base


def require_composable(adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Raise ParameterError for none or too many adapters, UnsupportedError for what weights beside
    a base's cannot say."""
    if not 1 <= len(adapters) <= MAX_COMPOSED:
        raise ParameterError(
            f"a file holds 1 to {MAX_COMPOSED} adapters, found {len(adapters)}",
            hint="export the base with --adapters dynamic, which takes any number",
        )
    for adapter, _ in adapters:
        require_expressible(cannot_express(adapter), "a composed graph")


@dataclass(slots=True, kw_only=True)
class Composed:
    """What `graph.blocks` adds to the outputs of linears: adapters at their scales.

    chosen: with an input that says which; else there is one adapter, and it always acts. dtype: of
    hidden states. Raises what `require_composable` raises.
    """

    writer: Writer
    adapters: Sequence[tuple[Adapter, float]]
    dtype: type[np.floating] = np.float32
    chosen: bool = True
    _deltas: list[Mapping[str, Delta]] = field(init=False)
    _declared: bool = False

    def __post_init__(self) -> None:
        require_composable(self.adapters)
        if not self.chosen and len(self.adapters) != 1:
            raise ParameterError(f"{len(self.adapters)} adapters need an input that chooses")
        self._deltas = [
            {delta.module: delta for delta in folded(scaled(adapter, scale)).deltas}
            for adapter, scale in self.adapters
        ]

    def __call__(self, module: str, x: str, y: str) -> str:
        """``y + (x A) B`` with each row's own A and B; y where no adapter changes the module."""
        found = [deltas.get(module) for deltas in self._deltas]
        if not any(found):
            return y
        first, second = self._factors(module, found)
        w = self.writer
        a, b = w.weight(f"{module}.lora_A", first), w.weight(f"{module}.lora_B", second)
        if self.chosen:
            if not self._declared:
                w.input(SELECTOR, ["batch_size"], TensorProto.INT64)
                self._declared = True
            a = w.node("Gather", [a, SELECTOR], f"{module}.A", axis=0)
            b = w.node("Gather", [b, SELECTOR], f"{module}.B", axis=0)
        low = w.node("MatMul", [x, a], f"{module}.xA")
        return w.node("Add", [y, w.node("MatMul", [low, b], f"{module}.xAB")], f"{module}.adapted")

    def _factors(
        self, module: str, found: Sequence[Delta | None]
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """A [n, in, rank] and B [n, rank, out], the first the base's, ranks filled with zeros;
        without a choice [in, rank] and [rank, out]."""
        deltas = [delta for delta in found if delta is not None]
        rank, ends = max(d.rank for d in deltas), deltas[0]
        a = np.zeros((len(found) + 1, ends.in_features, rank), self.dtype)
        b = np.zeros((len(found) + 1, rank, ends.out_features), self.dtype)
        with np.errstate(over="ignore"):
            for place, delta in enumerate(found, 1):
                if delta is not None:
                    a[place, :, : delta.rank] = delta.a.T
                    b[place, : delta.rank] = delta.b.T
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise FormatError(f"{module}: values are too large for {np.dtype(self.dtype).name}")
        return (a, b) if self.chosen else (a[1], b[1])


def scaled(adapter: Adapter, scale: float) -> Adapter:
    """The adapter with its deltas' scales multiplied."""
    if scale == 1.0:
        return adapter
    deltas = tuple(replace(delta, scale=delta.scale * scale) for delta in adapter.deltas)
    return replace(adapter, deltas=deltas)
