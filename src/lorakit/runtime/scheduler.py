"""Continuous batching: chooses the rows of each step, and processes their logits.

It runs on the thread that owns the engine, and knows nothing of other threads. A step is: end
cancelled and overdue requests, admit waiting ones (first come, first served), plan the rows, run,
sample. All decoding rows run together. Next to them, prompts are prefilled, first come, first
served, at most one chunk of tokens per step, so that a long prompt never stalls the others.

An error in one request, in the engine or in its sampling, ends only that request.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from typing import Any

import numpy as np

from lorakit.engines.protocol import AdapterSet, Engine, Logits, Row
from lorakit.errors import CancelledError, EngineError, LorakitError
from lorakit.runtime.adapters import AttachedAdapters
from lorakit.runtime.computations import Computation, Workbench, memory_errors, told
from lorakit.runtime.generation import Completion, FinishReason
from lorakit.runtime.job import Job
from lorakit.runtime.prefix import PrefixCache
from lorakit.runtime.sequences import Sequences
from lorakit.runtime.stages import KvPolicy
from lorakit.text.image_ids import inside

WORTH_WAITING = 32  # shared prefix tokens of another job for which a job waits
Waiting = Job | Computation[Any]
log = logging.getLogger("lorakit")


class Scheduler:
    """The requests of one engine. Used by the engine's thread only."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waiting: deque[Waiting] = deque()
        self.running: list[Job] = []
        self.stepping: list[Job] = []  # the jobs of the running step
        self.parked: dict[Job, None] = {}  # paused jobs that gave up their sequences
        self.computing: Computation[Any] | None = None
        self.active: AdapterSet = ()
        self.adapters = AttachedAdapters(engine)
        self._sequences = Sequences(engine)
        self._prefixes = PrefixCache(engine, self._sequences)
        self._bench = Workbench(engine, self._sequences, self._prefixes)
        self._capabilities = engine.capabilities
        self._deadlines: list[tuple[float, int, Job]] = []  # a heap
        self._count = itertools.count()
        self._alone = self._capabilities.prefill_alone or self._capabilities.prefill_chunk

    # Adapters.

    def retire(self, handle: int) -> None:
        """Free an adapter as soon as no request uses it."""
        self.adapters.retire(handle)
        self._free_retired()

    def activate(self, adapters: AdapterSet, policy: KvPolicy) -> None:
        """Replace the active set; requests that follow it change as docs/engines.md defines."""
        self.active = adapters
        for job in self._jobs():
            if job.live and job.plan is not None:
                self._follow(job, policy)
        self._free_retired()

    def _follow(self, job: Job, policy: KvPolicy) -> None:
        """Switch a job to the active set; its KV is cut back to the part that is still valid."""
        valid = job.follow(self.adapters.plan(self.active, job.generation.prompt), policy)
        if job.sequence is not None and valid < job.computed:
            self._cut_back(job, valid)

    def _cut_back(self, job: Job, length: int) -> None:
        """Continue a job from its first `length` tokens, or as many as the engine still holds."""
        assert job.sequence is not None
        try:
            length = min(length, self.engine.reusable(job.sequence, length))
        except Exception:
            log.exception("the engine cannot report what a sequence holds")
            length = 0
        job.computed = length = length - inside(job.tokens, length)
        if not self._sequences.cut(job.sequence, length):
            job.park()
            self.running.remove(job)
            self.waiting.appendleft(job)

    # Requests.

    def add(self, item: Waiting) -> None:
        """Queue a request or a computation."""
        if isinstance(item, Computation):
            chosen = self.active if item.adapters is None else item.adapters
            item.plan = self.adapters.plan(chosen, item.tokens.tolist())
            self.waiting.append(item)
            return
        item.queued = True
        if item.generation.params.max_tokens == 0:
            wanted = self.adapters.plan(self._wanted(item), item.generation.prompt)
            item.generation.finish(item.completion("length", self.adapters.named(wanted.last)))
        else:
            self.waiting.append(item)
            if item.generation.deadline is not None:
                heapq.heappush(self._deadlines, (item.generation.deadline, next(self._count), item))

    def notice(self, job: Job) -> None:
        """Update one job whose reader wants more, or which was cancelled."""
        if job.generation.done:
            return
        if job.generation.cancelled and job not in self.running:
            self._interrupt(job)
        elif job in self.parked and job.generation.wants_more:
            del self.parked[job]
            self.waiting.append(job)

    def step(self, *, look: bool = True) -> bool:
        """Run one step; False if there was nothing to run.

        look: check every job. If False, only running and overdue jobs are checked, so that the cost
        of a step does not grow with the waiting ones; the caller then calls `notice` for those.
        """
        if look:
            for job in self._jobs():
                self.notice(job)
        self._reap()
        if self.computing is not None:
            self._advance(self.computing)
        self._admit()
        self._force()
        plan = self._plan()
        if plan:
            self._run([job for job, _ in plan], [row for _, row in plan])
        # A reader may have stopped reading since the jobs were admitted.
        return bool(plan or self.waiting or self.computing)

    def next_deadline(self) -> float | None:
        """The earliest deadline, on the clock of time.monotonic."""
        while self._deadlines and self._deadlines[0][2].generation.done:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def fail_all(self, error: LorakitError) -> None:
        """End everything that is running or waiting."""
        for item in self._items():
            if isinstance(item, Job):
                item.generation.finish(error)
            else:
                item.fail(error)
        self.running.clear()
        self.waiting.clear()
        self.parked.clear()
        self.computing = None

    # One step.

    def _reap(self) -> None:
        now = time.monotonic()
        for job in self.running[:]:
            self._interrupt(job, now)
        while (overdue := self.next_deadline()) is not None and overdue <= now:
            self._interrupt(heapq.heappop(self._deadlines)[2], now)

    def _interrupt(self, job: Job, now: float = 0.0) -> None:
        """End a job that was cancelled or is overdue."""
        if error := job.interrupted(now):
            self._end(job, error)

    def _advance(self, computation: Computation[Any]) -> None:
        """Compute one part of the current computation."""
        self._bench.busy = [job.prefix for job in self.running]
        self.computing = computation
        if computation.advance():
            self.computing = None
            self._free_retired()

    def _admit(self) -> None:
        if not self.waiting:
            return
        ready = sum(job.generation.wants_more for job in self.running)
        while self.waiting and ready < self._capabilities.max_batch:
            item = self.waiting[0]  # stays in the queue until it has a sequence
            if not self._make_room():
                if not self.running and self.computing is None:  # nothing will free one
                    self._fail(item, EngineError("the engine cannot open a sequence"))
                    continue
                return
            if isinstance(item, Computation):
                if self.computing is not None:
                    return
                self.waiting.popleft()
                if item.begin(self._bench):
                    self._advance(item)
                continue
            try:
                if not self._begin(item):
                    return  # another job is computing its prefix, which will be forked
            except Exception as error:
                self._fail(item, error)
                continue
            self.running.append(item)
            self.waiting.popleft()
            ready += item.generation.wants_more  # a paused job does not count

    def _begin(self, job: Job) -> bool:
        """Give a job a sequence; False if waiting for another job's prefix costs less."""
        if job.plan is None:
            job.plan = self.adapters.plan(self._wanted(job), job.generation.prompt)
        key, tokens = job.key, np.asarray(job.tokens, np.int64)
        if any(other.will_share(key, tokens) >= WORTH_WAITING for other in self.running):
            return False
        busy = [other.prefix for other in self.running]
        rest = 1 if job.begun else self.engine.shortest_row(job.plan.last)
        with memory_errors():
            job.begin(*self._prefixes.acquire(key, tokens, busy, rest))
        return True

    def _make_room(self) -> bool:
        """Whether a sequence is available; if none is, a paused job gives up its own."""
        if self._sequences.room > 0 or len(self._prefixes):
            return True
        paused = next((job for job in self.running if not job.generation.wants_more), None)
        if paused is None:
            return False
        self.running.remove(paused)
        self._prefixes.put(paused.prefix)
        paused.park()
        self.parked[paused] = None
        return True

    def _force(self) -> None:
        """Give out what answers must begin with; it is computed with their prompts."""
        for job in [job for job in self.running if job.generation.wants_more]:
            try:
                reason = job.force(self._capabilities)
            except Exception as error:
                self._fail(job, error)
            else:
                self._end_if(job, reason)

    def _plan(self) -> list[tuple[Job, Row]]:
        """The next step: all decoding jobs, and a chunk of the prompts still to be prefilled."""
        ready = [job for job in self.running if job.generation.wants_more]
        ready = ready[: self._capabilities.max_batch]
        chunk = self._capabilities.prefill_chunk
        decoding = [job for job in ready if job.decoding]
        plan = [planned for job in decoding for planned in self._planned(job, chunk)]
        budget = chunk if plan else self._alone
        for job in [job for job in ready if not job.decoding]:
            assert job.plan is not None
            least = self.engine.shortest_row(job.plan.last)
            if budget >= least:
                few = job.pending - budget < least  # too few are left for a row of their own
                for planned in self._planned(job, job.pending if few else budget):
                    plan.append(planned)
                    budget -= len(planned[1].tokens)
        return plan

    def _planned(self, job: Job, chunk: int) -> list[tuple[Job, Row]]:
        """A job with its row; nothing where its constraint fails, which ends it."""
        try:
            return [(job, job.row(chunk, self._capabilities))]
        except Exception as error:
            self._fail(job, error)
            return []

    def _run(self, jobs: list[Job], rows: list[Row]) -> None:
        self.stepping = jobs
        try:
            results = self._forward(rows)
        except CancelledError:  # a job was cancelled; the others continue
            self._resume(jobs)
            return
        except Exception as error:
            self._resume(jobs)
            self._isolate(jobs, error)
            return
        finally:
            self.stepping = []
        for job, row, logits in zip(jobs, rows, results, strict=True):
            self._absorb(job, row, logits)
        if len(self.running) > self._capabilities.max_batch:  # jobs that ran go to the back
            self.running.sort(key=lambda job: job in jobs)

    def _isolate(self, jobs: list[Job], error: Exception) -> None:
        """After a step failed, run its rows one by one, and fail only those that fail alone."""
        if len(jobs) == 1:
            self._fail(jobs[0], error)
            return
        for job in jobs:
            if job.sequence is None:  # it lost its sequence and is waiting
                continue
            try:
                row = job.row(self._capabilities.prefill_chunk, self._capabilities)
                logits = self._forward([row])[0]
            except CancelledError:
                self._resume([job])
            except Exception as culprit:
                self._resume([job])
                self._fail(job, culprit)
            else:
                self._absorb(job, row, logits)

    def _resume(self, jobs: list[Job]) -> None:
        """After a failed step, ask the engine what it holds, and cut the jobs back to that."""
        for job in jobs:
            assert job.sequence is not None
            try:
                if self.engine.length(job.sequence) == job.computed:
                    continue
            except Exception:
                log.exception("the engine cannot report what a sequence holds")
            self._cut_back(job, job.computed)

    def _forward(self, rows: list[Row]) -> list[Logits]:
        with memory_errors():
            return self.engine.forward(rows)

    def _absorb(self, job: Job, row: Row, logits: Logits) -> None:
        try:
            reason = job.absorb(row, logits, self._capabilities)
        except Exception as error:
            self._fail(job, error)
            return
        self._end_if(job, reason)
        if job.surplus and reason is None:
            length, job.surplus = job.computed, 0
            self._cut_back(job, length)
            job.proposes = job.computed == length  # else each wrong token costs a prefill

    def _end_if(self, job: Job, reason: FinishReason | None) -> None:
        if reason is not None:
            assert job.plan is not None
            self._end(job, job.completion(reason, self.adapters.named(job.plan.last)))

    def _fail(self, item: Waiting, error: Exception) -> None:
        """End one request or computation with its error."""
        if isinstance(item, Job):
            self._end(item, told(error), keep=False)
        else:
            self.waiting.remove(item)
            item.fail(told(error))

    def _end(self, job: Job, outcome: Completion | LorakitError, *, keep: bool = True) -> None:
        """Remove a job from the engine, then deliver its outcome.

        keep: offer its KV to others. False for a failed request: its KV may be the cause.
        """
        if job in self.parked:
            del self.parked[job]
        elif job.sequence is None:
            self.waiting.remove(job)
        else:
            self.running.remove(job)
            if keep:
                self._prefixes.put(job.prefix)
            else:
                self._sequences.close(job.sequence)
        self._free_retired()
        job.generation.finish(outcome)

    # Jobs, and the adapters that they use.

    def _items(self) -> list[Waiting]:
        computing = () if self.computing is None else (self.computing,)
        return [*self.running, *self.waiting, *self.parked, *computing]

    def _jobs(self) -> list[Job]:
        return [item for item in self._items() if isinstance(item, Job)]

    def _wanted(self, job: Job) -> AdapterSet:
        return self.active if job.live else job.generation.adapters or ()

    def _free_retired(self) -> None:
        """Free unloaded adapters that no request has used or will use."""
        if not self.adapters.retiring:
            return
        used = {handle for handle, _ in self.active}
        for job in self._jobs():
            used |= {handle for handle, _ in self._wanted(job)}
        for item in self._items():
            if item.plan is not None:
                used |= {handle for _, chosen in item.plan.stages for handle, _ in chosen}
        self.adapters.free(used)
