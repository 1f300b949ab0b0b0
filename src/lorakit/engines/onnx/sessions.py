"""Which session of a base's graph runs: with the inputs that adapters need, with lanes, or without.

Each takes the place of the one before, on the same files. Two sessions for good would hold the
weights twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lorakit.engines.free_memory import free_memory
from lorakit.engines.onnx.plan import Worth
from lorakit.errors import EngineError
from lorakit.graph.gains import Extra

LANES = 8  # twice as many cost 6-11% more where half are idle, and 0.73 where none is
log = logging.getLogger("lorakit")


@dataclass(frozen=True, slots=True)
class Other:
    """A session on the graph with other inputs: see graph.gains, graph.packing."""

    extras: frozenset[Extra]
    lanes: int
    session: Any


@dataclass(slots=True, kw_only=True)
class Sessions:
    """What the session that runs has, and others.

    opened: gives a session with `extras` and `lanes`. weights: bytes that one holds, about. most:
    the lanes that one may have.
    """

    opened: Callable[..., Any]
    weights: int
    most: int
    extras: frozenset[Extra] = frozenset()
    lanes: int = 0
    worth: Worth = field(default_factory=Worth)
    crowded: int = 0  # steps whose rows would have filled more lanes

    @property
    def planned(self) -> int:
        """The lanes that a step is planned with; 0 where nothing is packed."""
        return min(self.lanes or self.most, self.most)

    def wider(self, extras: frozenset[Extra]) -> Other | None:
        """One with more inputs; None where none are lacking. May be called from any thread."""
        every, lanes = self.extras | extras, self.lanes
        if every == self.extras:
            return None
        return Other(every, lanes, self.opened(extras=every, lanes=lanes))

    def fits(self, other: Other) -> bool:
        """Whether it has what is there, and could take the place of it."""
        return self.extras <= other.extras and self.lanes == other.lanes

    def better(self, rows: int, spared: int) -> Other | None:
        """One with lanes, with more, or without, where that has become worth it at a step in which
        so many rows could be packed, which spares so many runs. Where none can be opened beside it
        this one stays for good."""
        wanted = self._wanted(rows, spared)
        if wanted == self.lanes:
            return None
        self.crowded = 0
        try:
            self._require_room()
            return Other(self.extras, wanted, self.opened(extras=self.extras, lanes=wanted))
        except EngineError as error:
            self.worth.settled = True
            packed = "packed" if self.lanes else "not packed"
            log.warning("rows of several tokens stay %s: %s", packed, error)
            return None

    def _wanted(self, rows: int, spared: int) -> int:
        """Lanes from now on."""
        if not spared:
            return 0 if self.lanes and self.worth.closed() else self.lanes
        if not self.worth.opened(spared):
            return self.lanes
        enough = min(LANES if rows <= LANES else 2 * LANES, self.most)
        if not self.lanes:
            return enough
        self.crowded += enough > self.lanes
        return enough if self.crowded >= self.worth.opening else self.lanes

    def _require_room(self) -> None:
        """While one session opens the other is there. Raises EngineError."""
        free = free_memory()
        if free is not None and free < self.weights:
            raise EngineError(
                f"another session takes {self.weights >> 20} MB, {int(free) >> 20} MB are free",
                code="out_of_memory",
            )
