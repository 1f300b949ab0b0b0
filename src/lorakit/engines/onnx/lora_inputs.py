"""LoRA rows: the tensors that the graph's LoRA inputs read, one slice per row of a batch.

A row's adapters stand side by side along the rank, each with its scale folded into its part of B.
Where the graph has gains, shifts and norms (graph.gains) a row has its own of those.
Rows that all use the same adapters share one slice. A slice is written when a row's adapters
change and not before; a change of scales rewrites B alone. It knows nothing of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorakit.engines.onnx.attached import Floats
from lorakit.engines.onnx.together import AttachedSet, composed, rank_of
from lorakit.engines.protocol import AdapterSet
from lorakit.graph import LoraTarget
from lorakit.graph.gains import NO_GAINS, Gains, gain_of, scale_of, shift_of

SINGLE_SLABS = 2  # one for a batch that shares its adapters, one for a row that joins


@dataclass(slots=True, eq=False)
class Slab:
    """LoRA inputs: for each module A [rows, in, rank] and B [rows, rank, out]; by name, for each
    input of `gains`, [rows, ...].

    A step reads some neighbouring rows. Row n serves whichever sequence sits in slot n of the KV
    cache, so that rows stay as they are while sequences stay where they are.
    """

    targets: Mapping[str, LoraTarget]
    gains: Gains
    arrays: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    vectors: dict[str, Floats] = field(default_factory=dict)
    generation: int = 0  # rises whenever the arrays move in memory
    _sets: list[AdapterSet | None] = field(default_factory=list)  # what each row holds, if known
    _exact: dict[AdapterSet, bool] = field(default_factory=dict)

    def write(self, first: int, sets: Sequence[AdapterSet], attached: AttachedSet) -> None:
        """Make the rows from `first` on hold these adapter sets, writing only what differs."""
        self.write_some(range(first, first + len(sets)), sets, attached)

    def write_some(
        self, places: Sequence[int], sets: Sequence[AdapterSet], attached: AttachedSet
    ) -> None:
        """The same for rows at any places."""
        end = max(places) + 1
        held = zip(places, sets, strict=True)
        if end <= len(self._sets) and all(self._sets[row] == new for row, new in held):
            return
        self._fit(end, sets, attached)
        for row, new in zip(places, sets, strict=True):
            if (old := self._sets[row]) != new:
                self._sets[row] = None  # should writing fail half-way
                same = old is not None and _handles(old) == _handles(new)
                self._write_row(row, new, attached, scales_only=same)
                self._sets[row] = new

    def exact(self, held: AdapterSet, attached: AttachedSet) -> bool:
        """Whether a prompt's products round by this set as in a slab of its own."""
        if held not in self._exact:
            self._exact[held] = not held or all(
                a.shape[-1] == self.targets[module].padded(rank_of(module, held, attached))
                for module, (a, _) in self.arrays.items()
                if self.targets[module].apart
            )
        return self._exact[held]

    def holds(self, handle: int) -> bool:
        return any(held is not None and handle in _handles(held) for held in self._sets)

    def same_adapters(self, held: AdapterSet) -> bool:
        """Whether the first row differs from this set by scales at most."""
        first = self._sets[0] if self._sets else None
        return first is not None and _handles(first) == _handles(held)

    def _fit(self, rows: int, sets: Sequence[AdapterSet], attached: AttachedSet) -> None:
        """Allocate anew where rows or ranks outgrow the arrays, or need far less than there is.

        Where rows are kept apart, one row has its own ranks: by those a prompt's products round.
        """
        ranks = {
            module: target.padded(max(rank_of(module, held, attached) for held in sets))
            for module, target in self.targets.items()
        }
        if rows <= len(self._sets) < 4 * rows:
            have = {module: a.shape[-1] for module, (a, _) in self.arrays.items()}
            fits = all(have[module] >= rank for module, rank in ranks.items())
            exact = rows == 1 and any(target.apart for target in self.targets.values())
            if have == ranks or (
                fits and not exact and 2 * sum(ranks.values()) >= sum(have.values())
            ):
                return
        rows = 1 << (rows - 1).bit_length()
        self.arrays = {}
        for module, target in self.targets.items():
            first, second = target.shapes(ranks[module])
            a, b = (np.zeros((rows, *shape), np.float32) for shape in (first, second))
            self.arrays[module] = a, b
        self.vectors = {
            name: np.repeat(value[np.newaxis], rows, axis=0) for name, value in self.gains.values()
        }
        self._sets = [()] * rows
        self._exact.clear()
        self.generation += 1

    def _write_row(
        self, row: int, held: AdapterSet, attached: AttachedSet, scales_only: bool
    ) -> None:
        for module, (a, b) in self.arrays.items():
            begin, now = 0, composed(module, held, attached)
            for factors, strength in now.parts:
                end = begin + factors.rank
                if not scales_only:
                    a[row, ..., begin:end] = factors.a.swapaxes(-1, -2)
                out = b[row, ..., begin:end, :]
                np.multiply(factors.b.swapaxes(-1, -2), strength, out=out, dtype=np.float32)
                begin = end
            a[row, ..., begin:] = 0
            b[row, ..., begin:, :] = 0
            if module in self.gains.linears:
                self.vectors[gain_of(module)][row] = now.gain
                self.vectors[shift_of(module)][row] = now.shift
        for module, own in self.gains.norms.items():
            found = (attached[handle].norms.get(module) for handle, _ in held)
            self.vectors[scale_of(module)][row] = next((n for n in found if n is not None), own)


def _handles(held: AdapterSet) -> list[int]:
    return [handle for handle, _ in held]


@dataclass(slots=True)
class Slabs:
    """The slabs of an engine: one for mixed batches, a few single-row ones, and the base's."""

    targets: Mapping[str, LoraTarget]
    gains: Gains = NO_GAINS
    _single: list[Slab] = field(default_factory=list)  # most recently used last
    _dropped: int = 0  # generations of the slabs that are gone
    _mixed: Slab = field(init=False)
    _base: Slab = field(init=False)

    def __post_init__(self) -> None:
        self._mixed = Slab(self.targets, self.gains)
        self._base = Slab(self.targets, self.gains)
        self._base.write(0, [()], {})

    @property
    def generation(self) -> int:
        """Rises whenever any array moves in memory or is freed."""
        return self._dropped + sum(slab.generation for slab in (self._mixed, *self._single))

    def fill(
        self, first: int, sets: Sequence[AdapterSet], attached: AttachedSet
    ) -> tuple[Slab, slice]:
        """A slab that holds the sets of neighbouring slots, and which of its rows to bind.

        One row serves all where the sets are equal.
        """
        if any(held != sets[0] for held in sets):
            self._mixed.write(first, sets, attached)
            return self._mixed, slice(first, first + len(sets))
        if not sets[0]:
            return self._base, slice(0, 1)
        slab = self._choose(sets[0])
        slab.write(0, sets[:1], attached)
        return slab, slice(0, 1)

    def fill_lanes(
        self, slots: Sequence[int], sets: Sequence[AdapterSet], attached: AttachedSet
    ) -> tuple[Slab, list[tuple[Slab, int]]]:
        """For rows in any slots, each by itself: a slab and which of its rows to bind.

        In front a slab of which all bind the first row, and then no others, where one product
        serves them all: of the base, or of one set where rows are not kept apart.
        """
        distinct = list(dict.fromkeys(sets))
        apart = any(target.apart for target in self.targets.values())
        if distinct == [()]:
            return self._base, []
        if len(distinct) == 1 and not apart:
            return self._own(distinct, attached)[distinct[0]], []
        if len([held for held in distinct if held]) > SINGLE_SLABS:
            self._mixed.write_some(slots, sets, attached)
            if all(self._mixed.exact(held, attached) for held in distinct):
                return self._base, [(self._mixed, slot) for slot in slots]
        slabs = self._own(distinct, attached)
        return self._base, [(slabs[held], 0) for held in sets]

    def _own(self, distinct: Sequence[AdapterSet], attached: AttachedSet) -> dict[AdapterSet, Slab]:
        """A slab for each set."""
        slabs: dict[AdapterSet, Slab] = {(): self._base}
        for held in distinct:
            if held:
                slabs[held] = self._choose(held, len(distinct), slabs.values())
                slabs[held].write(0, [held], attached)
        return slabs

    def drop(self, handle: int) -> None:
        """Free what a detached adapter occupies."""
        gone = [slab for slab in self._single if slab.holds(handle)]
        self._single = [slab for slab in self._single if slab not in gone]
        if self._mixed.holds(handle):
            gone.append(self._mixed)
            self._mixed = Slab(self.targets, self.gains)
        self._dropped += sum(slab.generation + 1 for slab in gone)

    def _choose(
        self, held: AdapterSet, most: int = SINGLE_SLABS, taken: Collection[Slab] = ()
    ) -> Slab:
        """The single-row slab nearest to a set: with its adapters, else new, else the oldest.

        most: how many there may be. taken: those that others of the same run read.
        """
        free = [slab for slab in self._single if slab not in taken]
        same = [slab for slab in free if slab.same_adapters(held)]
        if same:
            slab = same[-1]
        elif len(self._single) < max(most, SINGLE_SLABS):
            slab = Slab(self.targets, self.gains)
        else:
            slab = free[0]
        self._single = [other for other in self._single if other is not slab] + [slab]
        return slab
