"""Continuous batching: which rows run in the next step, and what becomes of their logits.

It runs on the thread that owns the engine and knows no threads itself. A step is: end what was
cancelled or is overdue, admit who waits (first come, first served), plan the rows, run, sample.
Decoding rows run together; beside them the rows that join compute their prompts, first come first
served, at most a chunk of tokens per step, so that a long prompt never stalls the others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet, Engine, Logits, Row, abandoned
from lorakit.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    EngineError,
    LorakitError,
)
from lorakit.images import Vectors, image_of, row_end
from lorakit.runtime.generation import Completion
from lorakit.runtime.job import Job
from lorakit.runtime.plan import Plan, plan
from lorakit.runtime.prefix import Prefix, PrefixCache
from lorakit.runtime.state import State

KvPolicy = Literal["keep", "recompute"]
WORTH_WAITING = 32  # tokens of a shared prefix that another job is computing
T = TypeVar("T")
log = logging.getLogger("lorakit")


class Scheduler:
    """The rows of one engine. Every method belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.stepping: list[Job] = []  # those of the step that is running
        self.parked: list[Job] = []  # paused, and gave up their sequences to others
        self.active: AdapterSet = ()
        self.names: dict[int, str] = {}  # handle -> the name it was loaded under
        self._digests: dict[int, str] = {}
        self._invocations: dict[int, tuple[int, ...]] = {}
        self._retired: set[int] = set()
        self._prefixes = PrefixCache(engine)
        self._capabilities = engine.capabilities
        self._alone = self._capabilities.prefill_alone or self._capabilities.prefill_chunk

    # Adapters.

    def attach(self, name: str, adapter: Adapter) -> int:
        handle = self.engine.attach(adapter)
        self.names[handle], self._digests[handle] = name, adapter.digest
        if adapter.invocation_tokens:
            self._invocations[handle] = adapter.invocation_tokens
        return handle

    def retire(self, handle: int) -> None:
        """Free an adapter as soon as no request uses it."""
        self._retired.add(handle)
        self._free_retired()

    def activate(self, adapters: AdapterSet, policy: KvPolicy) -> None:
        """Replace the active set; requests that follow it change with their next token."""
        self.active = adapters
        for job in self.running:
            stale = job.plan.adapters != adapters or (policy == "recompute" and job.mixed)
            if job.live and stale:
                if policy == "recompute" and job.sequence is not None:
                    self.engine.truncate(job.sequence, 0)
                    job.restart()
                job.switch(self._plan_of(adapters, job.generation.prompt))
        self._free_retired()

    # Requests.

    def add(self, job: Job) -> None:
        if job.generation.params.max_tokens == 0:
            job.generation.finish(
                job.completion(
                    "length",
                    self._named(self._plan_of(self._wanted(job), job.generation.prompt).last),
                )
            )
        else:
            self.waiting.append(job)

    def step(self) -> bool:
        """Run one step; False when there was nothing to run."""
        self._reap()
        self._admit()
        plan = self._plan()
        if plan:
            self._run([job for job, _ in plan], [row for _, row in plan])
        return bool(plan or self.waiting)  # a reader may have gone since jobs were admitted

    def next_deadline(self) -> float | None:
        """When the next request is overdue, on the clock of time.monotonic."""
        deadlines = [job.generation.deadline for job in self._jobs()]
        return min((d for d in deadlines if d is not None), default=None)

    def fail_all(self, error: LorakitError) -> None:
        for job in self._jobs():
            job.generation.finish(error)
        self.running.clear()
        self.waiting.clear()
        self.parked.clear()

    def logits(
        self,
        tokens: Sequence[int],
        adapters: AdapterSet,
        images: Mapping[int, Vectors] | None = None,
    ) -> Logits:
        """Logits of every position, float32 [tokens, vocabulary], from a cold sequence."""
        if not self._make_room():
            raise EngineError("every sequence of the engine is in use")
        if not self._room():
            self._prefixes.evict()
        ids = np.asarray(tokens, np.int64)
        chunk = self._alone
        sequence = self.engine.open_sequence()
        try:
            with _memory_errors():
                result = np.empty((len(ids), self._capabilities.vocabulary), np.float32)
                at, stages = 0, self._plan_of(adapters, tokens)
                while at < len(ids):
                    chosen, border = stages.at(at)
                    end = min(at + chunk, len(ids) if border is None else border)
                    end = row_end(tokens, at, end)
                    row = Row(
                        sequence=sequence,
                        tokens=ids[at:end],
                        adapters=chosen,
                        logits="all",
                        images=images or {},
                    )
                    result[at:end] = _to_the_end(partial(self.engine.forward, [row]))[0]
                    at = end
        finally:
            self.engine.close_sequence(sequence)
        return result

    def hidden(self, tokens: Sequence[int], adapters: AdapterSet) -> npt.NDArray[np.float32]:
        """Last hidden states of every position, float32 [tokens, hidden]; see Engine.hidden."""
        stages = self._plan_of(adapters, tokens)
        ids, parts, at = np.asarray(tokens, np.int64), [], 0
        edges = [start for start, _ in stages.stages[1:]] + [len(ids)]
        for end in edges:
            parts.append((ids[at:end], stages.at(at)[0]))
            at = end
        with _memory_errors():
            wanted = [part for part in parts if len(part[0])]
            return _to_the_end(partial(self.engine.hidden, wanted))

    def save_state(self, tokens: Sequence[int], adapters: AdapterSet) -> State:
        """The KV of tokens that a request has just computed. Raises EngineError if it is gone."""
        ids, key = np.asarray(tokens, np.int64), self._plan_of(adapters, tokens).key
        found = self._prefixes.find(key, ids)
        if found is None or found[1] < len(ids):
            raise EngineError(
                "the KV of this prompt was dropped meanwhile",
                hint="try again, or open the model with more cached_sequences",
            )
        self.engine.truncate(found[0].sequence, len(ids))
        self._prefixes.replace(found[0], replace(found[0], tokens=ids))
        return State(tokens=ids, key=key, kv=self.engine.save_sequence(found[0].sequence))

    def load_state(self, state: State) -> None:
        """Make saved KV available to requests with the same adapters, scales and tokens."""
        if not self._make_room():
            raise EngineError("every sequence of the engine is in use")
        if not self._room():
            self._prefixes.evict()
        sequence = self.engine.load_sequence(state.kv, len(state.tokens))
        self._prefixes.put(Prefix(sequence=sequence, key=state.key, tokens=state.tokens))

    # One step.

    def _reap(self) -> None:
        now = time.monotonic()
        for job in self._jobs():
            if error := job.interrupted(now):
                self._end(job, error)

    def _admit(self) -> None:
        if not self.waiting and not self.parked:
            return
        for job in [job for job in self.parked if job.generation.wants_more]:
            self.parked.remove(job)
            self.waiting.append(job)
        ready = sum(job.generation.wants_more for job in self.running)
        while self.waiting and ready < self._capabilities.max_batch:
            if not self._make_room():
                return
            job = self.waiting[0]  # it stays there until it has a sequence
            wanted = self._plan_of(self._wanted(job), job.generation.prompt)
            tokens = np.asarray(job.tokens, np.int64)
            if any(other.will_share(wanted.key, tokens) >= WORTH_WAITING for other in self.running):
                return  # what it needs is being computed: fork it then
            busy = [other.prefix for other in self.running]
            try:
                with _memory_errors():
                    found = self._prefixes.acquire(wanted.key, tokens, busy, self._room())
            except LorakitError as error:
                self._end(job, error)
                continue
            self.running.append(self.waiting.popleft())
            job.begin(*found, wanted)
            ready += job.generation.wants_more  # a paused job takes no place in the batch

    def _make_room(self) -> bool:
        """Whether a sequence can be had; a paused job gives up its own if there is no other."""
        if self._room() or len(self._prefixes):
            return True
        paused = next((job for job in self.running if not job.generation.wants_more), None)
        if paused is None:
            return False
        self.running.remove(paused)
        self._release(paused.prefix)
        paused.park()
        self.parked.append(paused)
        return True

    def _plan(self) -> list[tuple[Job, Row]]:
        """The next step: all jobs that decode, and a chunk of the prompts of those that join."""
        ready = [job for job in self.running if job.generation.wants_more]
        ready = ready[: self._capabilities.max_batch]
        plan = [(job, job.row(1)) for job in ready if job.pending == 1]
        budget = self._capabilities.prefill_chunk if plan else self._alone
        for job in ready:
            if job.pending > 1 and budget > 0:
                plan.append((job, job.row(budget)))
                budget -= len(plan[-1][1].tokens)
        return plan

    def _run(self, jobs: list[Job], rows: list[Row]) -> None:
        self.stepping = jobs
        try:
            results = self._forward(rows)
        except CancelledError:  # the engine was interrupted; who was cancelled goes, others run on
            return
        except LorakitError as error:
            self._isolate(jobs, rows, error)
            return
        finally:
            self.stepping = []
        for job, row, logits in zip(jobs, rows, results, strict=True):
            self._absorb(job, row, logits)
        if len(self.running) > self._capabilities.max_batch:  # whoever ran goes to the back
            self.running.sort(key=lambda job: job in jobs)

    def _isolate(self, jobs: list[Job], rows: list[Row], error: LorakitError) -> None:
        """A step failed as a whole: run its rows one by one, and fail only the culprits."""
        for job, row in zip(jobs, rows, strict=True):
            try:
                logits = self._forward([row])[0] if len(rows) > 1 else None
            except LorakitError as culprit:
                logits, error = None, culprit
            if logits is None:
                self._end(job, error)
            else:
                self._absorb(job, row, logits)

    def _forward(self, rows: list[Row]) -> list[Logits]:
        with _memory_errors():
            return self.engine.forward(rows)

    def _absorb(self, job: Job, row: Row, logits: Logits) -> None:
        try:
            reason = job.absorb(row, logits, self._capabilities.context)
        except Exception as error:  # a request's own sampling or text fails that request alone
            if not isinstance(error, LorakitError):
                log.exception("a request failed")
                error = EngineError(f"the request failed: {error!r}")
            self._end(job, error)
            return
        if reason:
            self._end(job, job.completion(reason, self._named(job.plan.last)))

    def _end(self, job: Job, outcome: Completion | LorakitError) -> None:
        """Take a job off the engine, keep its KV for others, then tell whoever waits."""
        if job in self.parked:
            self.parked.remove(job)
        elif job.sequence is None:
            self.waiting.remove(job)
        else:
            self.running.remove(job)
            self._release(job.prefix)
        self._free_retired()
        job.generation.finish(outcome)

    def _release(self, prefix: Prefix) -> None:
        if len(prefix.tokens):
            self.engine.truncate(prefix.sequence, len(prefix.tokens))
            self._prefixes.put(prefix)
        else:
            self.engine.close_sequence(prefix.sequence)

    # Small things.

    def _jobs(self) -> list[Job]:
        return [*self.running, *self.waiting, *self.parked]

    def _room(self) -> int:
        used = len(self.running) + len(self._prefixes)
        return self._capabilities.max_sequences - used

    def _wanted(self, job: Job) -> AdapterSet:
        return self.active if job.live else job.generation.adapters or ()

    def _plan_of(self, adapters: AdapterSet, prompt: Sequence[int]) -> Plan:
        return plan(adapters, prompt, self._invocations, self._digests)

    def _named(self, adapters: AdapterSet) -> tuple[tuple[str, float], ...]:
        return tuple((self.names[handle], scale) for handle, scale in adapters)

    def _free_retired(self) -> None:
        if not self._retired:
            return
        used = {handle for job in self.running for handle, _ in job.plan.adapters}
        used |= {handle for job in self._jobs() for handle, _ in self._wanted(job)}
        for handle in self._retired - used - {handle for handle, _ in self.active}:
            self.engine.detach(handle)
            self._retired.discard(handle)
            del self.names[handle], self._digests[handle]
            self._invocations.pop(handle, None)


class _memory_errors:  # noqa: N801  # used as a function; a class costs a third of a generator
    """Running out of memory fails a request, not the engine's thread."""

    __slots__ = ()

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if isinstance(error, MemoryError):
            raise EngineError(
                "the engine ran out of memory",
                code="out_of_memory",
                hint="use a smaller context, fewer rows (max_batch), or a quantized base",
            ) from error


def _to_the_end(run: Callable[[], T]) -> T:
    """Run what no request can cancel; an interrupt was meant for the step before. ClosedError."""
    while True:
        try:
            return run()
        except CancelledError as error:
            if abandoned.get()():
                raise ClosedError("the model was closed") from error


def check_prompt(
    prompt: Sequence[int], context: int, vocabulary: int, images: Container[int] = ()
) -> None:
    """Refuse what no engine can run. Raises ContextFullError or EngineError.

    images: the digests that negative ids may name.
    """
    if len(prompt) >= context:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens; the context holds {context}, "
            "at least one of them for the answer",
            hint="shorten the prompt, or open the model with a larger context",
        )
    outside = sorted(
        token
        for token in set(prompt)
        if token >= vocabulary or (token < 0 and image_of(token)[0] not in images)
    )
    if outside:
        raise EngineError(f"token ids must be in [0, {vocabulary}), found {outside[:5]}")
