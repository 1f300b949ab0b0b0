"""The one thread that owns an engine.

Everything native happens here; other threads leave commands and requests and wait on futures. That
is what makes load, apply, rescale, remove and close safe at any moment and from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from lorakit.engines.protocol import Engine
from lorakit.errors import ClosedError, EngineError, LorakitError, QueueFullError
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.scheduler import Scheduler

T = TypeVar("T")
log = logging.getLogger("lorakit")
Command = tuple[Callable[[Scheduler], Any], Future[Any]]


class EngineThread:
    """Runs a scheduler until closed. Raises what opening the engine raises."""

    def __init__(self, open_engine: Callable[[], Engine], *, max_queue: int) -> None:
        self._max_queue = max_queue
        self._condition = threading.Condition()
        self._commands: deque[Command] = deque()
        self._inbox: deque[Job] = deque()
        self._waiting = 0  # requests that were submitted and not admitted yet
        self._poked = False
        self._closing = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(open_engine, opened), name="lorakit-engine", daemon=True
        )
        self._thread.start()
        opened.result()

    @property
    def closed(self) -> bool:
        return self._closing

    def call(self, command: Callable[[Scheduler], T]) -> Future[T]:
        """Run a function on the engine's thread, between two steps."""
        future: Future[T] = Future()
        with self._condition:
            self._require_open()
            self._commands.append((command, future))
            self._condition.notify_all()
        return future

    def submit(self, job: Job) -> Generation:
        """Queue a request. Raises QueueFullError where there is no room."""
        job.generation.wake = self.poke
        with self._condition:
            self._require_open()
            if self._waiting >= self._max_queue:
                raise QueueFullError(
                    f"{self._waiting} requests are waiting already",
                    hint="try again later, or open the model with a larger max_queue",
                )
            self._waiting += 1
            self._inbox.append(job)
            self._condition.notify_all()
        return job.generation

    def wait_for_room(self) -> None:
        """Wait until the queue has room (somebody else may take it first)."""
        with self._condition:
            self._condition.wait_for(lambda: self._closing or self._waiting < self._max_queue)

    def poke(self) -> None:
        """Look again: a reader wants more, or a request was cancelled."""
        with self._condition:
            self._poked = True
            self._condition.notify_all()

    def close(self) -> None:
        """End all requests with ClosedError, free the engine, end the thread. Idempotent."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _require_open(self) -> None:
        if self._closing:
            raise ClosedError("the model is closed", hint="open it again")

    # On the thread itself.

    def _main(self, open_engine: Callable[[], Engine], opened: Future[None]) -> None:
        try:
            engine = open_engine()
        except BaseException as error:
            self._closing = True
            opened.set_exception(error)
            return
        scheduler = Scheduler(engine)
        opened.set_result(None)
        failure: LorakitError = ClosedError("the model was closed")
        try:
            self._loop(scheduler)
        except BaseException as error:
            log.exception("the engine's thread failed")
            failure = EngineError(f"the engine's thread failed: {error!r}")
        finally:
            self._finish(scheduler, failure)

    def _loop(self, scheduler: Scheduler) -> None:
        busy = True
        while not self._closing:
            for command, future in self._collect(scheduler, wait=not busy):
                _run(command, future, scheduler)
            busy = scheduler.step()

    def _collect(self, scheduler: Scheduler, *, wait: bool) -> list[Command]:
        """Take what has arrived; when idle, wait for something to arrive or become overdue."""
        deadline = scheduler.next_deadline() if wait else None
        with self._condition:
            if wait and not (self._commands or self._inbox or self._poked or self._closing):
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._condition.wait(timeout)
            self._poked = False
            commands, self._commands = list(self._commands), deque()
            jobs, self._inbox = list(self._inbox), deque()
            self._waiting = len(scheduler.waiting) + len(jobs)
            self._condition.notify_all()
        for job in jobs:  # outside the lock: adding may already tell a reader
            scheduler.add(job)
        return commands

    def _finish(self, scheduler: Scheduler, failure: LorakitError) -> None:
        with self._condition:
            self._closing = True
            commands, jobs = list(self._commands), list(self._inbox)
            self._commands.clear()
            self._inbox.clear()
            self._condition.notify_all()
        for _, future in commands:
            future.set_exception(failure)
        for job in jobs:
            job.generation.finish(failure)
        scheduler.fail_all(failure)
        scheduler.engine.close()


def _run(command: Callable[[Scheduler], Any], future: Future[Any], scheduler: Scheduler) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(command(scheduler))
    except BaseException as error:
        future.set_exception(error)
