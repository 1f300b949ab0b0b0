"""Which sequence lives in which context, and which context runs which set of adapters.

A sequence gets a context with its first token. Contexts are made as adapter sets appear, up to a
limit; a full context is replaced by one of twice its size that holds the same sequences. An error
leaves every sequence intact in its context, except one whose cells llama.cpp fails to remove: that
sequence becomes empty, and reports a length of 0.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorakit.engines.llama.context import CELLS, Context, Set
from lorakit.engines.llama.native import chosen
from lorakit.engines.llama.state import ROTATIONS, pack, unpack
from lorakit.engines.protocol import Capabilities
from lorakit.errors import ContextFullError, EngineError

log = logging.getLogger("lorakit.llama")


@dataclass(slots=True)
class Seat:
    """The context and the slot that hold a sequence."""

    context: Context | None = None
    slot: int = 0

    @property
    def length(self) -> int:
        return self.context.lengths[self.slot] if self.context else 0


class ContextPool:
    """The contexts and sequences of one engine. new_context makes a context of so many cells."""

    def __init__(
        self, new_context: Callable[[int], Context], most: int, capabilities: Capabilities
    ) -> None:
        self._new_context = new_context
        self._most = most
        self._limit = capabilities
        self._contexts: list[Context] = []  # least recently used first
        self._seats: dict[int, Seat] = {}
        self._ids = itertools.count(1)

    def __iter__(self) -> Iterator[Context]:
        return iter(self._contexts)

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
        return seat.context.reusable(seat.slot, length) if seat.context else 0

    def truncate(self, sequence: int, length: int) -> None:
        """Raises EngineError if fewer tokens are reusable (nothing changes), or if llama.cpp fails
        to remove the cells (the sequence is then empty)."""
        seat = self[sequence]
        if length >= seat.length:
            return
        self._require(sequence, length)
        assert seat.context is not None
        try:
            seat.context.truncate(seat.slot, length)
        except BaseException:
            self._drop(seat)
            raise

    def restore(self, sequence: int, length: int) -> None:
        """Cut a sequence back to its length before a failed step. Never raises: a sequence that
        cannot be cut back becomes empty, as a recurrent state that a step may have changed does."""
        seat = self[sequence]
        if not seat.context:
            return
        if seat.context.recurrent:
            self._drop(seat)
            return
        try:
            seat.context.truncate(seat.slot, length)
        except Exception as error:
            log.error("a failed step lost the KV of a sequence: %s", error)
            self._drop(seat)

    def fork(self, sequence: int, length: int) -> int:
        """Raises EngineError if fewer tokens are reusable, or if no sequence is free."""
        seat = self[sequence]
        self._require_room()
        length = min(length, seat.length)
        if not seat.context or not length:
            return self.open()
        self._require(sequence, length)
        context = self._with_room(seat.context, 0, slots=1)  # a growing context moves the sequence
        return self.open(Seat(context, context.fork(seat.slot, length)))

    def close(self, sequence: int) -> None:
        self._drop(self[sequence])
        del self._seats[sequence]

    def save(self, sequence: int) -> bytes:
        """Raises EngineError if llama.cpp no longer holds the whole sequence."""
        seat = self[sequence]
        return pack(seat.context.save(seat.slot) if seat.context else [], seat.length)

    def load(self, state: bytes, length: int) -> int:
        """Raises EngineError for a state that `save` did not write."""
        if not 0 < length <= self._limit.context:
            raise ContextFullError(f"the state holds {length} tokens, more than the context")
        self._require_room()
        context = self._with_room(self._contexts[-1] if self._contexts else None, length, slots=1)
        rotations = chosen().library.numbers >= ROTATIONS
        parts = unpack(state, context.spans(length), rotations=rotations)
        return self.open(Seat(context, context.load(parts, length)))

    def _require(self, sequence: int, length: int) -> None:
        found = self.reusable(sequence, length)
        if found < length:
            raise EngineError(
                f"llama.cpp holds only {found} of the first {length} tokens of a sequence"
            )

    def _drop(self, seat: Seat) -> None:
        """Remove a sequence from its context, which leaves it empty."""
        if seat.context:
            seat.context.close(seat.slot)
        seat.context = None

    # Placing.

    def in_order(self, sets: Collection[Set]) -> list[Set]:
        """The sets of a step; first those active in some context, as they need no switch."""
        active = {context.set for context in self._contexts}
        return sorted(sets, key=lambda chosen: chosen not in active)

    def place(
        self, chosen: Set, work: Mapping[int, int], step: Collection[Set]
    ) -> Iterator[tuple[Context, list[int]]]:
        """Yield contexts in which `chosen` is active, each with its sequences, to be run in turn.

        It is a single context unless some sequences cannot be moved to it. work: how many new
        tokens each sequence gets. step: all sets of the step. Raises EngineError if there is no
        room.
        """
        context = self._context_for(chosen, list(work), step)
        try:
            groups = {self._gathered(context, work): dict(work)}
        except EngineError as error:
            groups = self._homes(work)
            if not groups or list(groups) == [context]:
                raise
            log.warning("sequences cannot move; their contexts switch sets instead: %s", error)
        for home, part in groups.items():
            ready = self._gathered(home, part)
            ready.use(chosen)
            self._contexts.append(self._contexts.pop(self._contexts.index(ready)))
            yield ready, list(part)

    def _gathered(self, context: Context | None, work: Mapping[int, int]) -> Context:
        """The context, or a new one, holding the sequences, with room for their new tokens."""
        outside = [seat for name in work if (seat := self._seats[name]).context is not context]
        tokens = sum(work.values()) + sum(seat.length for seat in outside)
        context = self._with_room(context, tokens, slots=len(outside))
        for seat in outside:
            if seat.context is not context:
                slot = _copied(seat, context)
                self._drop(seat)
                seat.context, seat.slot = context, slot
        return context

    def _homes(self, work: Mapping[int, int]) -> dict[Context, dict[int, int]]:
        """The work, grouped by the contexts that hold its sequences. A sequence without a context
        goes to the first of these, or else to the most recently used context."""
        placed = [context for name in work if (context := self._seats[name].context)]
        first = next(iter(placed or self._contexts[-1:]), None)
        homes: dict[Context, dict[int, int]] = {}
        for name, tokens in work.items():
            if context := self._seats[name].context or first:
                homes.setdefault(context, {})[name] = tokens
        return homes

    def forget(self, address: int) -> None:
        """Deactivate an adapter in every context before it is freed: a context would read freed
        memory, or another adapter later allocated at the same address."""
        for context in self._contexts:
            if any(used == address for used, _ in context.set):
                context.use(())

    def free(self) -> None:
        for context in self._contexts:
            context.free()
        self._contexts.clear()
        self._seats.clear()

    def _context_for(
        self, chosen: Set, sequences: Sequence[int], step: Collection[Set]
    ) -> Context | None:
        """The context to run a set in; None for a new one. In order of preference: one in which
        the set is active; the one that holds these sequences and no others; a new one; the least
        recently used one whose set this step does not need; the one that holds most of them."""
        for context in self._contexts:
            if context.set == chosen:
                return context
        homes = [self._seats[sequence].context for sequence in sequences]
        home = max(homes, key=lambda context: homes.count(context) if context else 0)
        if home and home.set not in step and not self._shared(home, sequences):
            return home
        if len(self._contexts) < self._most:
            return None
        free = [context for context in self._contexts if context.set not in step]
        return free[0] if free else home or self._contexts[0]

    def _shared(self, context: Context, sequences: Sequence[int]) -> bool:
        """Whether a context also holds other sequences, which a change of set would affect."""
        return any(
            seat.context is context for name, seat in self._seats.items() if name not in sequences
        )

    def _with_room(self, context: Context | None, tokens: int, *, slots: int) -> Context:
        """The context, or a new one, with room for this many more tokens and sequences.

        A full context doubles. A tainted one is replaced by a copy: its sequences were already cut
        back to before the bad values.
        """
        if context is None:
            context = self._new_context(max(tokens, CELLS))
            self._contexts.append(context)
            return context
        need = context.used + tokens
        fits = need <= context.cells and slots <= context.free_slots
        if fits and not context.tainted:
            return context
        larger = max(need, min(2 * context.cells, need + self._limit.context))
        grown = self._new_context(context.cells if fits else larger)
        residents = [seat for seat in self._seats.values() if seat.context is context]
        try:
            moved = [(seat, _copied(seat, grown)) for seat in residents]
            grown.use(context.set)
        except BaseException:
            grown.free()
            raise
        for seat, slot in moved:
            seat.context, seat.slot = grown, slot
        self._contexts[self._contexts.index(context)] = grown
        context.free()
        return grown

    def _require_room(self) -> None:
        if len(self._seats) >= self._limit.max_sequences:
            raise EngineError("every sequence of the engine is in use")


def _copied(seat: Seat, context: Context) -> int:
    """A slot of another context with a copy of the sequence's KV. Raises EngineError."""
    if not seat.context or not seat.length:
        return context.open()
    return context.load(seat.context.save(seat.slot), seat.length)
