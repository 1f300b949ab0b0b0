"""How many threads a short decode uses: all, or one while other programs use the cores.

ggml's threads wait at a barrier after every operation, hundreds of times per token. When another
program takes a core, every barrier waits for the preempted thread, and two threads are slower than
one. It shows as wall time in which the decoding thread does not run. Short decodes then use one
thread for a while, before all threads are tried again.
"""

from __future__ import annotations

import time

CROWDED = 0.7  # CPU time over wall time; below it the cores are shared. Unshared: 0.9 and more
LEAST = 0.02  # seconds to measure before judging
FIRST, LONGEST = 0.25, 4.0  # seconds with one thread, doubled each time in a row
SHORT = 32  # tokens; larger decodes have enough work between two barriers

Begun = tuple[float, float]


class Pace:
    """The pace of one engine's decodes. most: threads to use while the cores are free."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._alone_until = 0.0
        self._pause = FIRST
        self._wall = self._own = 0.0

    def threads(self, tokens: int) -> int:
        """How many threads a decode of this many tokens should use now."""
        crowded = tokens < SHORT and self._alone_until and time.perf_counter() < self._alone_until
        return 1 if crowded else self.most

    def begin(self) -> Begun:
        return time.perf_counter(), time.thread_time()

    def end(self, begun: Begun) -> None:
        """To be called after a short decode with all threads."""
        now = time.perf_counter()
        self._wall += now - begun[0]
        self._own += time.thread_time() - begun[1]
        if self._wall < LEAST:
            return
        if self._own < CROWDED * self._wall:
            self._alone_until, self._pause = now + self._pause, min(2 * self._pause, LONGEST)
        else:
            self._alone_until, self._pause = 0.0, FIRST
        self._wall = self._own = 0.0
