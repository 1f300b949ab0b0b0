"""The one thread that owns an engine.

All native calls are made here; other threads queue commands and requests, and wait on futures. So
load, apply, rescale, remove and close are safe at any moment and from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet, Capabilities, Engine, Logits, abandoned
from lorakit.errors import ClosedError, DeadlineError, EngineError, LorakitError, QueueFullError
from lorakit.processes import give_memory_back, leave_to_parent, watch
from lorakit.runtime.computations import Computation, HiddenOf, LoadedState, LogitsOf, SavedState
from lorakit.runtime.generation import HEARTBEAT, Generation
from lorakit.runtime.job import Job
from lorakit.runtime.protocol import Submission
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.stages import KvPolicy
from lorakit.runtime.state import State
from lorakit.text.image_ids import Image, Vectors

LONGEST_WAIT = 3600.0  # seconds; the timeout of a lock is limited
T = TypeVar("T")
log = logging.getLogger("lorakit")
# A command with its future; a job or computation to queue; a job to check; None only wakes.
Event = tuple[Callable[[Scheduler], Any], Future[Any]] | Job | Computation[Any] | None


class EngineThread:
    """Opens an engine and runs its scheduler until closed. A Runtime: see runtime.protocol."""

    def __init__(self, open_engine: Callable[[], Engine], *, max_queue: int) -> None:
        self.max_queue = max_queue
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._room = threading.Condition()  # guards the fields below
        self._unseen = 0  # requests among the events
        self._generations: weakref.WeakSet[Generation] = weakref.WeakSet()
        self._closing = False
        self._reason = ClosedError("the model is closed", hint="open it again")
        self._scheduler: Scheduler | None = None
        self._opened: Future[Capabilities] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(open_engine,), name="lorakit-engine", daemon=True
        )
        self._thread.start()
        watch(self, self._thread)

    def wait_open(self) -> Capabilities:
        """Wait until the engine is open. Raises what opening it raised."""
        return self._opened.result()

    @property
    def capabilities(self) -> Capabilities:
        return self.wait_open()

    @property
    def waiting(self) -> int:
        """Requests that were submitted and not admitted yet."""
        return self._unseen + (len(self._scheduler.waiting) if self._scheduler else 0)

    @property
    def closed(self) -> bool:
        return self._closing

    def call(self, command: Callable[[Scheduler], T]) -> Future[T]:
        """Run a function on the engine's thread, between two steps."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # so that the caller cannot cancel it
        with self._room:
            self.require_open()
            self._events.put((command, future))
        return future

    def submit(self, submission: Submission) -> Generation:
        generation = Generation(
            submission.prompt,
            submission.params,
            adapters=submission.adapters,
            deadline=submission.deadline,
            lookahead=submission.lookahead,
            images=submission.images,
        )
        job = Job(generation, submission.decoder, submission.stops, submission.constraint)
        generation.wake = partial(self.poke, job)
        generation.interrupt = partial(self._interrupt, job)
        self._queue(job)
        return generation

    def load(self, name: str, adapter: Adapter) -> Future[int]:
        self.wait_open()
        assert self._scheduler is not None
        prepared = self._scheduler.engine.prepare(adapter)  # on the caller's thread
        return self.call(lambda scheduler: scheduler.adapters.attach(name, prepared))

    def unload(self, handle: int) -> Future[None]:
        return self.call(lambda scheduler: scheduler.retire(handle))

    def activate(self, adapters: AdapterSet, policy: KvPolicy) -> Future[None]:
        return self.call(lambda scheduler: scheduler.activate(adapters, policy))

    def logits(
        self,
        tokens: Sequence[int],
        adapters: AdapterSet | None,
        images: Mapping[int, Vectors] | None = None,
    ) -> Future[Logits]:
        return self._compute(LogitsOf(tokens, adapters, images))

    def hidden(
        self, tokens: Sequence[int], adapters: AdapterSet | None
    ) -> Future[npt.NDArray[np.float32]]:
        return self._compute(HiddenOf(tokens, adapters))

    def save_state(self, tokens: Sequence[int], adapters: AdapterSet | None) -> Future[State]:
        return self._compute(SavedState(tokens, adapters))

    def load_state(self, state: State) -> Future[None]:
        return self._compute(LoadedState(state))

    def _compute(self, computation: Computation[T]) -> Future[T]:
        """Queue a computation, which waits its turn as a request does."""
        self._queue(computation)
        return computation.future

    def _queue(self, item: Job | Computation[Any]) -> None:
        with self._room:
            self.require_open()
            if self.waiting >= self.max_queue:
                raise QueueFullError(
                    f"{self.waiting} requests are waiting already",
                    hint="try again later, or open the model with a larger max_queue",
                )
            self._unseen += 1
            if isinstance(item, Job):
                self._generations.add(item.generation)
            self._events.put(item)

    def wait_for_room(self, deadline: float | None = None) -> None:
        """Wait until the queue has room (another thread may take it first). DeadlineError."""
        with self._room:
            while not self._room.wait_for(
                lambda: self._closing or self.waiting < self.max_queue, HEARTBEAT
            ):
                if deadline is not None and time.monotonic() >= deadline:
                    raise DeadlineError(
                        "the deadline passed while the request waited for room in the queue",
                        hint="allow more time, or open the model with a larger max_queue",
                    )

    def poke(self, job: Job | None = None) -> None:
        """Wake the thread to check a job whose reader wants more, or which was cancelled.

        Takes no lock, so that a stream's finalizer may call it anywhere.
        """
        self._events.put(job)

    def _interrupt(self, job: Job) -> None:
        """Interrupt the running step if it computes this job. Takes no lock, like `poke`."""
        if (scheduler := self._scheduler) is not None and job in scheduler.stepping:
            scheduler.engine.interrupt()

    def encode_image(self, content: bytes) -> Image:
        """An image file as a prompt's ids and vectors. Raises ClosedError, CapabilityError."""
        self.require_open()
        self.wait_open()
        assert self._scheduler is not None
        return self._scheduler.engine.encode_image(content)

    def begin_close(self) -> None:
        """Tell the thread to end all requests, free the engine, and exit.

        Takes no lock and does not wait, so that finalizers may call it on any thread.
        """
        self._closing = True
        if (scheduler := self._scheduler) is not None:
            scheduler.engine.interrupt()
        self.poke()

    def close(self) -> None:
        """End all requests with ClosedError, free the engine, end the thread. Idempotent."""
        self.begin_close()
        if self._opened.done() and threading.current_thread() is not self._thread:
            self._thread.join()  # an engine still opening is closed once it is open

    def require_open(self) -> None:
        """Raises ClosedError once it is closing, with the reason if it failed."""
        if self._closing:
            raise ClosedError(self._reason.message, hint=self._reason.hint)

    def forked(self) -> None:
        """In a forked child: the thread does not exist there, and the engine is the parent's.

        Locks are replaced, because other threads may have held them during the fork. No native
        object is used or even freed: its threads do not exist in the child either.
        """
        self._reason = ClosedError(
            "the model was opened before this process was forked, and belongs to its parent",
            hint="open it in this process",
        )
        self._closing = True
        self._room = threading.Condition()
        self._events = SimpleQueue()
        if not self._opened.done():
            self._opened = Future()
            self._opened.set_exception(self._reason)
        leave_to_parent(self._scheduler)
        for generation in list(self._generations):
            generation.forked(self._reason)

    # On the engine's thread.

    def _main(self, open_engine: Callable[[], Engine]) -> None:
        try:
            abandoned.set(lambda: self._closing)
            engine = open_engine()
            scheduler = self._scheduler = Scheduler(engine)
        except BaseException as error:
            self._closing = True
            self._opened.set_exception(error)
            return
        with self._room:
            self._opened.set_result(engine.capabilities)
        failure: LorakitError = ClosedError("the model was closed")
        try:
            self._loop(scheduler)
        except BaseException as error:
            log.exception("the engine's thread failed; the model is closed")
            failure = EngineError(f"the engine's thread failed: {error!r}")
            self._reason = ClosedError(
                f"the model is closed because the engine's thread failed: {error!r}",
                hint="open it again; the traceback is in lorakit's log",
            )
        finally:
            self._finish(scheduler, failure)

    def _loop(self, scheduler: Scheduler) -> None:
        busy = True
        while not self._closing:
            self._take_events(scheduler, wait=not busy)
            busy = scheduler.step(look=False)
            with self._room:
                self._room.notify_all()  # admitted requests left the queue

    def _take_events(self, scheduler: Scheduler, *, wait: bool) -> None:
        """Handle the queued events; when idle, wait for one, or until the next deadline."""
        timeout = None
        if wait and (deadline := scheduler.next_deadline()) is not None:
            timeout = min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT)
        try:
            event = self._events.get(block=wait, timeout=timeout)
            while True:
                self._handle(event, scheduler)
                event = self._events.get_nowait()
        except Empty:
            return

    def _handle(self, event: Event, scheduler: Scheduler) -> None:
        if isinstance(event, Job) and event.queued:
            scheduler.notice(event)
        elif isinstance(event, Job | Computation):
            with self._room:  # together, or a request is counted twice
                scheduler.add(event)
                self._unseen -= 1
        elif event is not None:
            _run(*event, scheduler)

    def _finish(self, scheduler: Scheduler, failure: LorakitError) -> None:
        with self._room:
            self._closing = True  # events after this are not handled
            self._room.notify_all()
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, Job):
                event.generation.finish(failure)
            elif isinstance(event, Computation):
                event.fail(failure)
            elif event is not None:
                event[1].set_exception(failure)
        scheduler.fail_all(failure)
        scheduler.engine.close()
        give_memory_back()


def _run(command: Callable[[Scheduler], Any], future: Future[Any], scheduler: Scheduler) -> None:
    try:
        future.set_result(command(scheduler))
    except BaseException as error:
        future.set_exception(error)
