"""What chooses adapters in an exported graph: its LoRA inputs, or a number for each row.

A row's adapters stand side by side along the rank, each with its scale folded into its part of B.
What was made for the sets of a step is kept, so that the next step makes nothing. It knows nothing
of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorakit.adapter import Adapter, Array, Delta
from lorakit.engines.protocol import AdapterSet
from lorakit.errors import CapabilityError
from lorakit.graph import LoraTarget

KEPT = 4  # sets; one of rank 16 for a model of 270M parameters is 15 MB
Sets = tuple[AdapterSet, ...]


@dataclass(slots=True, eq=False)
class LoraFeeds:
    """LoRA inputs of a graph, in the dtype of its hidden states."""

    targets: Mapping[str, LoraTarget]
    dtype: np.dtype[np.floating]
    _deltas: dict[int, Mapping[str, Delta]] = field(default_factory=dict)  # by handle, module
    _kept: dict[Sets, dict[str, Array]] = field(default_factory=dict)  # most recently used last

    def attach(self, handle: int, adapter: Adapter) -> None:
        self._deltas[handle] = {delta.module: delta for delta in adapter.deltas}

    def detach(self, handle: int) -> None:
        del self._deltas[handle]
        named = [sets for sets in self._kept if any(handle == h for held in sets for h, _ in held)]
        for sets in named:
            del self._kept[sets]

    def of(self, sets: Sequence[AdapterSet]) -> dict[str, Array]:
        """The inputs of a step, by name; one row of them serves all where the sets are equal."""
        key = tuple(sets[:1]) if all(held == sets[0] for held in sets) else tuple(sets)
        found = self._kept.pop(key, None)
        if found is None:
            found = {}
            for target in self.targets.values():
                found[target.a], found[target.b] = self._pair(target, key)
        self._kept[key] = found
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def _pair(self, target: LoraTarget, sets: Sets) -> tuple[Array, Array]:
        """A [rows, in, rank] and B [rows, rank, out] of a module, with zeros after lower ranks."""
        rows = [
            [
                (delta, scale)
                for handle, scale in held
                if (delta := self._deltas[handle].get(target.module)) is not None
            ]
            for held in sets
        ]
        rank = max(sum(delta.rank for delta, _ in row) for row in rows)
        a = np.zeros((len(sets), target.in_features, rank), self.dtype)
        b = np.zeros((len(sets), rank, target.out_features), self.dtype)
        for number, row in enumerate(rows):
            begin = 0
            for delta, scale in row:
                end, strength = begin + delta.rank, np.float32(delta.scale * scale)
                with np.errstate(over="ignore"):
                    a[number, :, begin:end] = delta.a.T
                    b[number, begin:end] = delta.b.T.astype(np.float32) * strength
                begin = end
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise CapabilityError(
                f"values of an adapter, or its scale, are too large for {self.dtype.name}",
                items=[target.module],
                hint="use a form of the export with hidden states in float32",
            )
        return a, b
