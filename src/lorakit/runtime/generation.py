"""One request in flight: shared between the engine's thread and the readers.

The engine thread emits chunks and an outcome; readers, threads or coroutines, wait for the same
events. Generation runs at most `lookahead` chunks ahead of its reader (None: without limit), so
that a scale changed between two pieces of a stream acts on the very next token that is chosen.
Tokens that a constraint forces are given out together, with the token that led to them.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from lorakit.engines.protocol import AdapterSet
from lorakit.errors import CancelledError, LorakitError
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.sampling import Choice
from lorakit.text.image_ids import Vectors

HEARTBEAT = 0.5  # seconds; on Windows, Ctrl-C does not interrupt a wait without timeout
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a request cost, in tokens. cached_tokens: those of the prompt that were not computed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        """Those of prompt and answer."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished generation. `str()` of it is its text.

    tokens: every sampled token, the one that stopped it included, with log probabilities where
    they were asked for. finish_reason: the engine's, "stop" for a call too: "tool_calls", a word of
    OpenAI's, is ChatReply's. cached_tokens: how many prompt tokens came from the prefix cache.
    adapters: (name, scale) active at the end. Times are seconds from submission.
    completion_tokens: how many tokens it has, also where only their number is known. others: the
    further answers, where several were asked for.
    """

    text: str
    tokens: tuple[Choice, ...] = field(repr=False)
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    adapters: tuple[tuple[str, float], ...]
    first_token_seconds: float
    seconds: float
    completion_tokens: int = -1  # as many as `tokens` holds
    others: tuple[Completion, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.completion_tokens < 0:
            object.__setattr__(self, "completion_tokens", len(self.tokens))

    @property
    def choices(self) -> tuple[Completion, ...]:
        """All answers that were asked for (n=), this one first; each counts its own tokens."""
        return (self, *self.others)

    @property
    def usage(self) -> Usage:
        """Its tokens, counted."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
        )

    def __str__(self) -> str:
        return self.text


class Generation:
    """The shared state of a request. Every method may be called from any thread."""

    def __init__(
        self,
        prompt: tuple[int, ...],
        params: SamplingParams,
        *,
        adapters: AdapterSet | None = None,
        deadline: float | None = None,
        lookahead: int | None = None,
        images: Mapping[int, Vectors] | None = None,
    ) -> None:
        self.prompt = prompt
        self.images: Mapping[int, Vectors] = images or {}  # of negative ids, by digest
        self.params = params
        self.adapters = adapters  # None: the model's active set, followed live
        self.deadline = deadline  # on the clock of time.monotonic
        self.submitted: float = time.monotonic()
        self.cancelled: bool = False
        self.wake: Callable[[], None] = lambda: None  # set by the engine thread
        self.interrupt: Callable[[], None] = lambda: None  # likewise
        self._lookahead = lookahead
        self._condition = threading.Condition()
        self._done = threading.Event()
        self._unread: deque[str] = deque()
        self._wanted = 0  # readers that wait for a piece
        self._outcome: Completion | LorakitError | None = None
        self._piece_wakers: list[Callable[[], object]] = []
        self._done_wakers: list[Callable[[], object]] = []

    # The engine thread's side.

    @property
    def wants_more(self) -> bool:
        """Whether the next token may be computed now."""
        with self._condition:
            if self._lookahead is None:
                return True
            return len(self._unread) < max(self._lookahead, 1 if self._wanted else 0)

    @property
    def paced(self) -> bool:
        """Whether it may run only so far ahead of its reader."""
        return self._lookahead is not None

    def emit(self, text: str) -> None:
        with self._condition:
            self._unread.append(text)
            self._notify()

    def finish(self, outcome: Completion | LorakitError) -> None:
        with self._condition:
            if self._outcome is None:
                self._outcome = outcome
                self._done.set()
                self._notify()
                _wake(self._done_wakers)

    def forked(self, error: LorakitError) -> None:
        """End it in a forked child, where no thread computes it; see EngineThread.forked."""
        self._condition, self._done = threading.Condition(), threading.Event()
        self.wake = self.interrupt = lambda: None
        if self._outcome is None:
            self._outcome = error
        self._done.set()

    def _notify(self) -> None:
        self._condition.notify_all()
        _wake(self._piece_wakers)

    # The readers' side.

    @property
    def done(self) -> bool:
        return self._outcome is not None

    @property
    def state(self) -> str:
        """How far it is, in words; takes no lock and does not wait."""
        outcome = self._outcome
        if isinstance(outcome, Completion):
            return f"ended ({outcome.finish_reason}, {len(outcome.tokens)} tokens)"
        if outcome is not None and not isinstance(outcome, CancelledError):
            return f"failed ({outcome.code})"
        return "cancelled" if self.cancelled or outcome is not None else "running"

    def cancel(self) -> None:
        """Stop before the next token; the outcome is CancelledError unless it is already done."""
        self.cancelled = True
        self.interrupt()
        self.wake()

    def next_piece(self) -> str | None:
        """Wait for the next piece of text; None at the end. Raises the request's error."""
        with self._condition:
            if self._ready():
                return self._take()
            self._wanted += 1
            try:
                self.wake()  # takes no lock
                while not self._condition.wait_for(self._ready, HEARTBEAT):
                    pass
                return self._take()
            finally:
                self._wanted -= 1

    async def anext_piece(self) -> str | None:
        """next_piece for coroutines."""
        wanted, waker = 1, None
        with self._condition:
            self._wanted += wanted
        try:
            while True:
                with self._condition:
                    if self._ready():  # in one lock, or one more is computed
                        self._wanted, wanted = self._wanted - wanted, 0
                        return self._take()
                    waker = _Waker(self._piece_wakers)
                self.wake()
                await waker.arrived
        finally:
            with self._condition:
                self._wanted -= wanted
                if waker is not None:
                    waker.forget()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the end, without reading. Raises the request's error, or TimeoutError."""
        self._run_free()
        limit = math.inf if timeout is None else time.monotonic() + timeout
        while not self._done.wait(min(HEARTBEAT, max(0.0, limit - time.monotonic()))):
            if time.monotonic() >= limit:
                raise TimeoutError(f"the generation did not finish within {timeout} seconds")
        return self._completion()

    async def aresult(self) -> Completion:
        """result for coroutines."""
        self._run_free()
        with self._condition:
            if self.done:
                return self._completion()
            waker = _Waker(self._done_wakers)
        try:
            await waker.arrived
        finally:
            with self._condition:
                waker.forget()
        return self._completion()

    def _run_free(self) -> None:
        self._lookahead = None
        self.wake()

    def _ready(self) -> bool:
        return bool(self._unread) or self.done

    def _take(self) -> str | None:
        if self._unread:
            return self._unread.popleft()
        if isinstance(self._outcome, CancelledError) and self.cancelled:
            return None
        self._completion()
        return None

    def _completion(self) -> Completion:
        if isinstance(self._outcome, Completion):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome.with_traceback(None)  # else it grows with every call


class _Waker:
    """A future of the running loop, resolved when its list of wakers is called."""

    def __init__(self, wakers: list[Callable[[], object]]) -> None:
        self._loop = asyncio.get_running_loop()
        self.arrived: asyncio.Future[None] = self._loop.create_future()
        self._wakers = wakers
        wakers.append(self._wake)

    def forget(self) -> None:
        """Remove it from the list."""
        with suppress(ValueError):
            self._wakers.remove(self._wake)

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._arrive)

    def _arrive(self) -> None:
        if not self.arrived.done():
            self.arrived.set_result(None)


def _wake(wakers: list[Callable[[], object]]) -> None:
    """Call all wakers and clear the list. Wakers of a closed loop are skipped."""
    while wakers:
        with suppress(RuntimeError):
            wakers.pop()()


class Stream:
    """The result of `stream`: an iterator of text, sync or async.

    Dropping or closing it cancels the generation; `result()` waits for the Completion.
    """

    def __init__(self, generation: Generation, owner: object = None) -> None:
        """owner: an object to keep alive until the stream has been read, such as the model."""
        self._generation = generation
        self._owner = owner

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        piece = self._generation.next_piece()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> str:
        piece = await self._generation.anext_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    @property
    def text(self) -> Stream:
        """Itself: its pieces are text, as those of the `text` of a ChatStream."""
        return self

    def cancel(self) -> None:
        """Stop within one token; iteration then ends and `result` raises CancelledError."""
        self._generation.cancel()

    close = cancel

    @property
    def cancelled(self) -> bool:
        """Whether it was stopped before its end."""
        return self._generation.state == "cancelled"

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the Completion. Raises the request's error, or TimeoutError."""
        return self._generation.result(timeout)

    async def aresult(self) -> Completion:
        """`result` for coroutines."""
        return await self._generation.aresult()

    def __repr__(self) -> str:
        return f"<Stream {self._generation.state}>"

    def __del__(self) -> None:
        if not self._generation.done:
            self._generation.cancel()
