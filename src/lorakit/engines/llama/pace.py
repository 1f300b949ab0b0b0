"""How many threads a short decode takes: all of them, or one while others use the cores.

ggml's threads meet after every operation, hundreds of times per token. Where another program takes
a core, each meeting waits until the thread that it took it from has it back, and two threads are
slower than one. That shows as time in which the thread that decodes does not run; then one thread
does short decodes for a while, before all are tried again.
"""

from __future__ import annotations

import time

CROWDED = 0.7  # of its time a thread runs less where others take its core; alone 0.9 and more
LEAST = 0.02  # seconds that are measured at least
FIRST, LONGEST = 0.25, 4.0  # seconds with one thread; twice as long each time in a row
SHORT = 32  # tokens; larger decodes have work enough between two meetings

Begun = tuple[float, float]


class Pace:
    """For the decodes of one engine's thread. most: threads where nobody is in the way."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._alone_until = 0.0
        self._pause = FIRST
        self._wall = self._own = 0.0

    def threads(self, tokens: int) -> int:
        """How many threads a decode of so many tokens takes now."""
        crowded = tokens < SHORT and self._alone_until and time.perf_counter() < self._alone_until
        return 1 if crowded else self.most

    def begin(self) -> Begun:
        return time.perf_counter(), time.thread_time()

    def end(self, begun: Begun) -> None:
        """After a short decode with all threads."""
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
