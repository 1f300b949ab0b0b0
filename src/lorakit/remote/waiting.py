"""How long a server may take: to be reached, until its first word, and between two of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lorakit.sources.limits import Limits
from lorakit.sources.wire import Patience

FOR_EVER = 1e8  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds. A comment that keeps a connection alive is no word: it does not lengthen a wait.

    connect: to reach the server. first: until an answer begins, in which a busy server queues the
    request and reads the prompt. next: between two pieces of an answer.
    """

    connect: float = 20.0
    first: float = 600.0
    next: float = 120.0


class Waiting(Patience):
    """What is left of a wait. deadline: of the request, on the clock of time.monotonic."""

    def __init__(self, waits: Waits, deadline: float | None = None) -> None:
        super().__init__(limits=Limits(timeout=FOR_EVER, deadline=FOR_EVER, min_rate=0.0))
        self.waits = waits
        self.deadline = deadline
        self.begin(waits.connect)

    def begin(self, seconds: float) -> None:
        """Wait so long from now on."""
        self.seconds = seconds
        until = time.monotonic() + seconds
        self.end = until if self.deadline is None else min(until, self.deadline)

    @property
    def late(self) -> bool:
        """Whether the request's own deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline
