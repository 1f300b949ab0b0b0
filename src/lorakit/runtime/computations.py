"""Results other than text that callers ask an engine for: logits, hidden states, saved KV.

A computation waits in the scheduler's queue for a free sequence, as a request does, and then runs
to completion on the engine's thread, one part per step, next to the requests.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lorakit.engines.free_memory import free_memory
from lorakit.engines.protocol import AdapterSet, Engine, Logits, Row, Tokens, abandoned
from lorakit.errors import CancelledError, ClosedError, EngineError, LorakitError, MismatchError
from lorakit.runtime.prefix import Prefix, PrefixCache
from lorakit.runtime.sequences import Sequences
from lorakit.runtime.stages import Plan
from lorakit.runtime.state import State
from lorakit.text.image_ids import Vectors, row_end

T = TypeVar("T")
R = TypeVar("R")
Parts = Generator[None, None, T]
log = logging.getLogger("lorakit")
SMALL = 1 << 26  # bytes that are taken without a look at what is there


class Workbench:
    """What a computation uses: the engine, its sequences, and those of running requests."""

    def __init__(self, engine: Engine, sequences: Sequences, prefixes: PrefixCache) -> None:
        self.engine = engine
        self.sequences = sequences
        self.prefixes = prefixes
        limits = engine.capabilities
        self.chunk = limits.prefill_alone or limits.prefill_chunk
        self.busy: list[Prefix] = []  # sequences that requests are using

    def make_room(self) -> None:
        """Make sure that one more sequence can be opened; evict an idle one if necessary."""
        if not self.sequences.room:
            self.prefixes.evict()

    def feed(
        self,
        sequence: int,
        tokens: Tokens,
        plan: Plan,
        *,
        start: int = 0,
        logits: Literal["all", "none"] = "none",
        images: Mapping[int, Vectors] | None = None,
    ) -> Iterator[tuple[int, Logits]]:
        """Run the tokens from `start` on, each under its adapters; yield the end and the logits of
        each part."""
        listed = tokens.tolist()
        while start < len(tokens):
            chosen, border = plan.at(start)
            end = min(start + self.chunk, len(tokens) if border is None else border)
            end = row_end(listed, start, end)
            row = Row(
                sequence=sequence,
                tokens=tokens[start:end],
                adapters=chosen,
                logits=logits,
                images=images or {},
            )
            yield end, to_the_end(partial(self.engine.forward, [row]))[0]
            start = end


class Computation(ABC, Generic[T]):
    """One computation. `adapters` None means the active set at the moment it is queued."""

    def __init__(self, tokens: Sequence[int] | Tokens, adapters: AdapterSet | None) -> None:
        self.tokens = np.asarray(tokens, np.int64)
        self.adapters = adapters
        self.plan: Plan | None = None  # set when it is queued
        self.future: Future[T] = Future()
        self._parts: Parts[T] | None = None

    def begin(self, bench: Workbench) -> bool:
        """Start, to be continued by `advance`; False if the caller has cancelled it."""
        self._parts = self.parts(bench)
        return self.future.set_running_or_notify_cancel()

    def advance(self) -> bool:
        """Compute one part; True once the future has its outcome. Never raises an Exception."""
        assert self._parts is not None
        try:
            with memory_errors():
                next(self._parts)
        except StopIteration as done:
            with suppress(InvalidStateError):
                self.future.set_result(done.value)
        except Exception as error:
            self.fail(told(error))
        else:
            return False
        return True

    def fail(self, error: LorakitError) -> None:
        if self._parts is not None:
            self._parts.close()
        with suppress(InvalidStateError):  # cancelled, or done
            self.future.set_exception(error)

    @abstractmethod
    def parts(self, bench: Workbench) -> Parts[T]:
        """Compute; yield wherever other rows may run in between."""

    @property
    def history(self) -> Plan:
        assert self.plan is not None
        return self.plan


class LogitsOf(Computation[Logits]):
    """Logits of every position, float32 [tokens, vocabulary], from a cold sequence."""

    def __init__(
        self,
        tokens: Sequence[int],
        adapters: AdapterSet | None,
        images: Mapping[int, Vectors] | None = None,
    ) -> None:
        super().__init__(tokens, adapters)
        self._images = images or {}

    def parts(self, bench: Workbench) -> Parts[Logits]:
        shape = (len(self.tokens), bench.engine.capabilities.vocabulary)
        _require_memory(shape)
        bench.make_room()
        result = np.empty(shape, np.float32)
        sequence = bench.sequences.open()
        try:
            for end, logits in bench.feed(
                sequence, self.tokens, self.history, logits="all", images=self._images
            ):
                result[end - len(logits) : end] = logits
                if end < len(result):
                    yield
        finally:
            bench.sequences.close(sequence)
        return result


def _require_memory(shape: tuple[int, int]) -> None:
    """Raise EngineError where so many logits do not fit: the system gives memory that it has not,
    and then ends the process."""
    needed = shape[0] * shape[1] * np.dtype(np.float32).itemsize
    free = free_memory() if needed > SMALL else None
    if free is not None and needed > free:
        raise EngineError(
            f"the logits of {shape[0]} tokens, {shape[1]} each, take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are there",
            code="out_of_memory",
            hint="ask for those of fewer tokens",
        )


class HiddenOf(Computation[npt.NDArray[np.float32]]):
    """Last hidden states of every position, float32 [tokens, hidden]; see Engine.hidden."""

    def parts(self, bench: Workbench) -> Parts[npt.NDArray[np.float32]]:
        yield from ()  # engines compute them in one piece
        bench.make_room()  # some engines open a sequence of their own for it
        stages = self.history.stages
        edges = [*(start for start, _ in stages[1:]), len(self.tokens)]
        parts, at = [], 0
        for (_, adapters), end in zip(stages, edges, strict=True):
            if end > at:
                parts.append((self.tokens[at:end], adapters))
                at = end
        return to_the_end(partial(bench.engine.hidden, parts))


class SavedState(Computation[State]):
    """The KV of some tokens, reused from other sequences where possible, to be written."""

    def parts(self, bench: Workbench) -> Parts[State]:
        key = self.history.key
        sequence, cached = bench.prefixes.acquire(key, self.tokens, bench.busy)
        try:
            for end, _ in bench.feed(sequence, self.tokens, self.history, start=cached):
                if end < len(self.tokens):
                    yield
            kv = bench.engine.save_sequence(sequence)
        except BaseException:
            bench.sequences.close(sequence)
            raise
        bench.prefixes.put(Prefix(sequence=sequence, key=key, tokens=self.tokens))
        return State(tokens=self.tokens, key=key, kv=kv)


class LoadedState(Computation[None]):
    """Saved KV, made available to requests with the same adapters, scales and tokens."""

    def __init__(self, state: State) -> None:
        super().__init__(state.tokens, ())
        self._state = state

    def parts(self, bench: Workbench) -> Parts[None]:
        yield from ()
        limits = bench.engine.capabilities
        count, ids = len(self.tokens), self.tokens
        if count > limits.context or ids.min() < 0 or ids.max() >= limits.vocabulary:
            raise MismatchError(
                "the saved state does not fit this model",
                items=[
                    f"{count} tokens, ids {ids.min()} to {ids.max()}",
                    f"context {limits.context}, vocabulary {limits.vocabulary}",
                ],
            )
        bench.make_room()
        sequence = bench.sequences.load(self._state.kv, count)
        try:
            held = bench.engine.length(sequence)
            if held != count:
                raise EngineError(f"the saved state holds {held} tokens, not {count}")
        except BaseException:
            bench.sequences.close(sequence)
            raise
        bench.prefixes.put(Prefix(sequence=sequence, key=self._state.key, tokens=self.tokens))


def told(error: Exception) -> LorakitError:
    """The error to raise to the caller; an unexpected one is logged with its traceback."""
    if isinstance(error, LorakitError):
        return error
    log.error("a request failed", exc_info=error)
    return EngineError(f"the request failed: {error!r}")


def to_the_end(run: Callable[[], R]) -> R:
    """Run again after interrupts, which are meant for requests. Raises ClosedError on closing."""
    while not abandoned.get()():
        with suppress(CancelledError):
            return run()
    raise ClosedError("the model was closed")


class memory_errors:  # noqa: N801  # used as a function; a class costs a third of a generator
    """Turns MemoryError into EngineError, which fails a request, not the engine's thread."""

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
