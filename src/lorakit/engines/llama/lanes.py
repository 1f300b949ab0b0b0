"""Which sequence lives in which lane, and which lane runs which set of adapters.

A sequence has no lane before its first token. Lanes are made as sets come up, as many as are
allowed; a lane that is full makes way for one of twice its size, with the same sequences in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from lorakit.engines.llama.lane import CELLS, Lane, Set
from lorakit.engines.protocol import Capabilities
from lorakit.errors import ContextFullError, EngineError


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

    def truncate(self, sequence: int, length: int) -> None:
        seat = self[sequence]
        if seat.lane:
            seat.lane.truncate(seat.slot, length)

    def fork(self, sequence: int, length: int) -> int:
        seat = self[sequence]
        self._require_room()
        if not seat.lane or not length:
            return self.open()
        return self.open(Seat(seat.lane, seat.lane.fork(seat.slot, length)))

    def close(self, sequence: int) -> None:
        seat = self[sequence]
        if seat.lane:
            seat.lane.close(seat.slot)
        del self._seats[sequence]

    def save(self, sequence: int) -> bytes:
        seat = self[sequence]
        return seat.lane.save(seat.slot) if seat.lane else b""

    def load(self, state: bytes, length: int) -> int:
        if not 0 < length <= self._limit.context:
            raise ContextFullError(f"the state holds {length} tokens, more than the context")
        sequence = self.open()
        seat = self._seats[sequence]
        try:
            lane = self._with_room(self._lanes[-1] if self._lanes else None, length)
            seat.lane, seat.slot = lane, lane.open()
            lane.load(seat.slot, state, length)
        except BaseException:
            self.close(sequence)
            raise
        return sequence

    # Placing.

    def in_order(self, sets: Collection[Set]) -> list[Set]:
        """The sets of a step, those that are in force in some lane first: they need no switch."""
        in_force = {lane.set for lane in self._lanes}
        return sorted(sets, key=lambda chosen: chosen not in in_force)

    def place(
        self, chosen: Set, sequences: Sequence[int], tokens: int, step: Collection[Set]
    ) -> Lane:
        """The lane that runs so many new tokens of some sequences, which sit in it now, under a
        set. step: all sets of the step."""
        lane = self._lane_for(chosen, sequences, step)
        seats = [self._seats[sequence] for sequence in sequences]
        lane = self._with_room(lane, tokens + sum(s.length for s in seats if s.lane is not lane))
        for seat in seats:
            _move(seat, lane)
        lane.use(chosen)
        self._lanes.append(self._lanes.pop(self._lanes.index(lane)))
        return lane

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

    def _with_room(self, lane: Lane | None, tokens: int) -> Lane:
        """The lane, or a new one, with cells for so many more tokens; a lane grows by doubling."""
        if lane is None:
            lane = self._new_lane(max(tokens, CELLS))
            self._lanes.append(lane)
            return lane
        need = lane.used + tokens
        if need <= lane.cells:
            return lane
        grown = self._new_lane(max(need, min(2 * lane.cells, need + self._limit.context)))
        residents = [seat for seat in self._seats.values() if seat.lane is lane]
        try:
            moved = [(seat, _copied(seat, grown)) for seat in residents]
        except BaseException:
            grown.free()
            raise
        for seat, slot in moved:
            seat.lane, seat.slot = grown, slot
        grown.use(lane.set)
        self._lanes[self._lanes.index(lane)] = grown
        lane.free()
        return grown

    def _require_room(self) -> None:
        if len(self._seats) >= self._limit.max_sequences:
            raise EngineError("every sequence of the engine is in use")


def _copied(seat: Seat, lane: Lane) -> int:
    """A slot of another lane with a copy of the sequence's KV."""
    assert seat.lane is not None
    slot = lane.open()
    if seat.length:
        lane.load(slot, seat.lane.save(seat.slot), seat.length)
    return slot


def _move(seat: Seat, lane: Lane) -> None:
    if seat.lane is lane:
        return
    if seat.lane is None:
        seat.slot = lane.open()
    else:
        slot = _copied(seat, lane)
        seat.lane.close(seat.slot)
        seat.slot = slot
    seat.lane = lane
