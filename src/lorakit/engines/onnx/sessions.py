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

    def wider(self, extras: frozenset[Extra]) -> Other | None:
        """One with more inputs; None where none are lacking. May be called from any thread."""
        every, lanes = self.extras | extras, self.lanes
        if every == self.extras:
            return None
        return Other(every, lanes, self.opened(extras=every, lanes=lanes))

    def fits(self, other: Other) -> bool:
        """Whether it has what is there, and could take the place of it."""
        return self.extras <= other.extras and self.lanes == other.lanes

    def better(self, spared: int) -> Other | None:
        """One with lanes, or without, where that has become worth it at a step in which packing
        spares so many runs. Where none can be opened beside it this one stays for good."""
        if spared:
            wanted = self.most if self.worth.opened(spared) else self.lanes
        else:
            wanted = 0 if self.lanes and self.worth.closed() else self.lanes
        if wanted == self.lanes:
            return None
        try:
            self._require_room()
            return Other(self.extras, wanted, self.opened(extras=self.extras, lanes=wanted))
        except EngineError as error:
            self.worth.settled = True
            packed = "packed" if self.lanes else "not packed"
            log.warning("rows of several tokens stay %s: %s", packed, error)
            return None

    def _require_room(self) -> None:
        """While one session opens the other is there. Raises EngineError."""
        free = free_memory()
        if free is not None and free < self.weights:
            raise EngineError(
                f"another session takes {self.weights >> 20} MB, {int(free) >> 20} MB are free",
                code="out_of_memory",
            )
