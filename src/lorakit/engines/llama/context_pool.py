"""Which sequence lives in which lane, and which lane runs which set of adapters.

A sequence has no lane before its first token. Lanes are made as sets come up, as many as are
allowed; a lane that is full makes way for one of twice its size, with the same sequences in it.
Whatever fails on the way leaves every sequence where it was, whole; one whose cells llama.cpp does
not give back is empty afterwards, and says so.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorakit.engines.llama.context import CELLS, Lane, Set
from lorakit.engines.llama.state import pack, unpack
from lorakit.engines.protocol import Capabilities
from lorakit.errors import ContextFullError, EngineError

log = logging.getLogger("lorakit.llama")


@dataclass(slots=True)
class Seat:
    """Where a sequence lives."""

    lane: Lane | None = None
    slot: int = 0

    @property
    def length(self) -> int:
        return self.lane.lengths[self.slot] if self.lane else 0


class Lanes:
    """The lanes and the sequences of one engine. new_lane makes one with so many cells."""

    def __init__(
        self, new_lane: Callable[[int], Lane], most: int, capabilities: Capabilities
    ) -> None:
        self._new_lane = new_lane
        self._most = most
        self._limit = capabilities
        self._lanes: list[Lane] = []  # least recently used first
        self._seats: dict[int, Seat] = {}
        self._ids = itertools.count(1)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def __getitem__(self, sequence: int) -> Seat:
        if sequence not in self._seats:
            raise EngineError(f"no sequence {sequence} is open")
        return self._seats[sequence]

    # Sequences.

    def open(self, seat: Seat | None = None) -> int:
        self._require_room()
        sequence = next(self._ids)
        self._seats[sequence] = seat or Seat()
        return sequence

    def length(self, sequence: int) -> int:
        return self[sequence].length

    def reusable(self, sequence: int, length: int) -> int:
        seat = self[sequence]
        return seat.lane.reusable(seat.slot, length) if seat.lane else 0

    def truncate(self, sequence: int, length: int) -> None:
        """Raises EngineError where less is reusable, and nothing has changed; and where llama.cpp
        does not give cells back, and the sequence is empty."""
        seat = self[sequence]
        if length >= seat.length:
            return
        self._require(sequence, length)
        assert seat.lane is not None
        try:
            seat.lane.truncate(seat.slot, length)
        except BaseException:
            self._drop(seat)
            raise

    def restore(self, sequence: int, length: int) -> None:
        """Cut a sequence back to where it was before a step that failed. Never raises: what cannot
        be cut back is empty."""
        seat = self[sequence]
        if not seat.lane:
            return
        try:
            seat.lane.truncate(seat.slot, length)
        except Exception as error:
            log.error("the KV of a sequence is lost with a step that failed: %s", error)
            self._drop(seat)

    def fork(self, sequence: int, length: int) -> int:
        """Raises EngineError where less is reusable, or where no sequence is free."""
        seat = self[sequence]
        self._require_room()
        length = min(length, seat.length)
        if not seat.lane or not length:
            return self.open()
        self._require(sequence, length)
        lane = self._with_room(seat.lane, 0, slots=1)  # which has moved the sequence, if it grew
        return self.open(Seat(lane, lane.fork(seat.slot, length)))

    def close(self, sequence: int) -> None:
        self._drop(self[sequence])
        del self._seats[sequence]

    def save(self, sequence: int) -> bytes:
        """Raises EngineError where llama.cpp no longer holds the whole sequence."""
        seat = self[sequence]
        return pack(seat.lane.save(seat.slot) if seat.lane else [], seat.length)

    def load(self, state: bytes, length: int) -> int:
        """Raises EngineError for what `save` did not write."""
        if not 0 < length <= self._limit.context:
            raise ContextFullError(f"the state holds {length} tokens, more than the context")
        self._require_room()
        lane = self._with_room(self._lanes[-1] if self._lanes else None, length, slots=1)
        return self.open(Seat(lane, lane.load(unpack(state, lane.spans(length)), length)))

    def _require(self, sequence: int, length: int) -> None:
        found = self.reusable(sequence, length)
        if found < length:
            raise EngineError(
                f"llama.cpp holds only {found} of the first {length} tokens of a sequence"
            )

    def _drop(self, seat: Seat) -> None:
        """Let a sequence go from its lane; it is empty then."""
        if seat.lane:
            seat.lane.close(seat.slot)
        seat.lane = None

    # Placing.

    def in_order(self, sets: Collection[Set]) -> list[Set]:
        """The sets of a step, those that are in force in some lane first: they need no switch."""
        in_force = {lane.set for lane in self._lanes}
        return sorted(sets, key=lambda chosen: chosen not in in_force)

    def place(
        self, chosen: Set, work: Mapping[int, int], step: Collection[Set]
    ) -> Iterator[tuple[Lane, list[int]]]:
        """Lanes with a set in force, and the sequences that sit in each of them, to be run one
        after another; one lane, unless sequences cannot be moved there.

        work: how many new tokens each sequence gets. step: all sets of the step. Raises EngineError
        where there is no room.
        """
        lane = self._lane_for(chosen, list(work), step)
        try:
            groups = {self._gathered(lane, work): dict(work)}
        except EngineError as error:
            groups = self._homes(work)
            if not groups or list(groups) == [lane]:
                raise
            log.warning("sequences stay in their contexts, which change sets: %s", error)
        for home, part in groups.items():
            ready = self._gathered(home, part)
            ready.use(chosen)
            self._lanes.append(self._lanes.pop(self._lanes.index(ready)))
            yield ready, list(part)

    def _gathered(self, lane: Lane | None, work: Mapping[int, int]) -> Lane:
        """The lane, or a new one, with the sequences in it and room for their new tokens."""
        outside = [seat for name in work if (seat := self._seats[name]).lane is not lane]
        tokens = sum(work.values()) + sum(seat.length for seat in outside)
        lane = self._with_room(lane, tokens, slots=len(outside))
        for seat in outside:
            if seat.lane is not lane:
                slot = _copied(seat, lane)
                self._drop(seat)
                seat.lane, seat.slot = lane, slot
        return lane

    def _homes(self, work: Mapping[int, int]) -> dict[Lane, dict[int, int]]:
        """The work by the lanes where its sequences sit; those without one go to the first of
        them, or to the lane that was used last."""
        placed = [lane for name in work if (lane := self._seats[name].lane)]
        first = next(iter(placed or self._lanes[-1:]), None)
        homes: dict[Lane, dict[int, int]] = {}
        for name, tokens in work.items():
            if lane := self._seats[name].lane or first:
                homes.setdefault(lane, {})[name] = tokens
        return homes

    def forget(self, address: int) -> None:
        """Take an adapter out of force everywhere: freed, it would be read, or taken for the next
        one at its address."""
        for lane in self._lanes:
            if any(used == address for used, _ in lane.set):
                lane.use(())

    def free(self) -> None:
        for lane in self._lanes:
            lane.free()
        self._lanes.clear()
        self._seats.clear()

    def _lane_for(
        self, chosen: Set, sequences: Sequence[int], step: Collection[Set]
    ) -> Lane | None:
        """The lane with the set, else the one where the rows live and nobody else does, else a new
        one (None), else the least recently used one that no group of this step needs, else home."""
        for lane in self._lanes:
            if lane.set == chosen:
                return lane
        homes = [self._seats[sequence].lane for sequence in sequences]
        home = max(homes, key=lambda lane: homes.count(lane) if lane else 0)
        if home and home.set not in step and not self._shared(home, sequences):
            return home
        if len(self._lanes) < self._most:
            return None
        free = [lane for lane in self._lanes if lane.set not in step]
        return free[0] if free else home or self._lanes[0]

    def _shared(self, lane: Lane, sequences: Sequence[int]) -> bool:
        """Whether sequences of others live in a lane, who would find their set changed."""
        return any(seat.lane is lane for name, seat in self._seats.items() if name not in sequences)

    def _with_room(self, lane: Lane | None, tokens: int, *, slots: int) -> Lane:
        """The lane, or a new one, with cells for so many more tokens and slots for so many more
        sequences. A lane grows by doubling; a tainted one is made anew, with what its sequences
        hold, for they were cut back to before."""
        if lane is None:
            lane = self._new_lane(max(tokens, CELLS))
            self._lanes.append(lane)
            return lane
        need = lane.used + tokens
        fits = need <= lane.cells and slots <= lane.free_slots
        if fits and not lane.tainted:
            return lane
        larger = max(need, min(2 * lane.cells, need + self._limit.context))
        grown = self._new_lane(lane.cells if fits else larger)
        residents = [seat for seat in self._seats.values() if seat.lane is lane]
        try:
            moved = [(seat, _copied(seat, grown)) for seat in residents]
            grown.use(lane.set)
        except BaseException:
            grown.free()
            raise
        for seat, slot in moved:
            seat.lane, seat.slot = grown, slot
        self._lanes[self._lanes.index(lane)] = grown
        lane.free()
        return grown

    def _require_room(self) -> None:
        if len(self._seats) >= self._limit.max_sequences:
            raise EngineError("every sequence of the engine is in use")


def _copied(seat: Seat, lane: Lane) -> int:
    """A slot of another lane with a copy of the sequence's KV. Raises EngineError."""
    if not seat.lane or not seat.length:
        return lane.open()
    return lane.load(seat.lane.save(seat.slot), seat.length)
