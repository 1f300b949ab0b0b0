"""Whose turn it is: how many requests run at once, how many wait, and when a busy server rests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lorakit.errors import CancelledError, DeadlineError, QueueFullError
from lorakit.runtime.generation import HEARTBEAT, Generation

BACKOFF, LONGEST = 1.0, 60.0  # seconds until a busy server is asked again


class Turns:
    """The queue of a server's requests. Thread-safe.

    A request that waits is one that `join` let in and that has not taken its turn yet.
    """

    def __init__(self, most_running: int, most_waiting: int) -> None:
        self.most_running, self.most_waiting = most_running, most_waiting
        self._room = threading.Condition()  # guards the counts
        self._running = self._waiting = 0
        self._not_before = 0.0  # on the clock of time.monotonic

    def join(self) -> None:
        """Wait for a turn from now on. Raises QueueFullError."""
        with self._room:
            if self._waiting >= self.most_waiting:
                raise QueueFullError(
                    f"{self._waiting} requests are waiting already",
                    hint="try again later, or open the model with a larger max_queue",
                )
            self._waiting += 1

    def leave(self) -> None:
        """Wait no more, without a turn."""
        with self._room:
            self._waiting -= 1
            self._room.notify_all()

    @contextmanager
    def turn(self, generation: Generation, *, joined: bool) -> Iterator[None]:
        """Run among the others, once there is room. Raises CancelledError and DeadlineError.

        joined: it is one of those that `join` counted.
        """
        with self._room:
            try:
                while self._running >= self.most_running and not generation.done:
                    wait(self._room, generation.deadline)
                if generation.done:
                    raise CancelledError("the request was cancelled")
                self._running += 1
            finally:
                self._waiting -= joined
                self._room.notify_all()
        try:
            yield
        finally:
            with self._room:
                self._running -= 1
                self._room.notify_all()

    def wait_for_room(self, deadline: float | None, ended: threading.Event) -> None:
        """Wait until the queue has room and the server may be asked. Raises DeadlineError."""
        with self._room:
            while not ended.is_set() and (self._waiting >= self.most_waiting or self._rest() > 0):
                wait(self._room, deadline, self._rest() or HEARTBEAT)

    def busy(self, seconds: float | None) -> None:
        """The server said so, and perhaps when to come again."""
        self._not_before = time.monotonic() + min(max(BACKOFF, seconds or 0.0), LONGEST)

    def _rest(self) -> float:
        return max(0.0, self._not_before - time.monotonic())


def wait(room: threading.Condition | threading.Event, deadline: float | None,
         most: float = HEARTBEAT) -> None:  # fmt: skip
    """Wait a moment for something to change. Raises DeadlineError once there is no time left."""
    left = most if deadline is None else deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError(
            "the deadline passed while the request waited for its turn",
            hint="allow more time, or open the model with a larger max_batch or max_queue",
        )
    room.wait(min(HEARTBEAT, most, left))
