"""The tool loop: does what a Plan says, for threads and for coroutines, and yields the events."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from lorakit.chat.messages import Message
from lorakit.errors import CancelledError, ContextFullError, DeadlineError, ParameterError
from lorakit.model.chat_stream import ChatStream
from lorakit.model.tool_calls import Ready
from lorakit.model.tool_plan import Answered, Ask, Plan, Run, Steps
from lorakit.model.tool_types import RunEnd, ToolEvent, ToolFinished, ToolRun, ToolStarted, ToolStep

Begin = Callable[[Ask], tuple[ChatStream, Sequence[Message]]]


class ToolStream:
    """The result of stream_tools: an iterator of events, sync or async.

    The events of each reply as of `stream`, ToolStarted and ToolFinished for its calls, and at the
    end RunEnd. Dropping or closing it cancels the answer that is written.

    answer: the one that is written, or was last; of a session's run it is a Turn.
    """

    def __init__(
        self, plan: Plan, begin: Begin, end: Callable[[ToolRun], object] = lambda run: None
    ) -> None:
        """Made by `stream_tools`. begin: begins an answer; end: is told of the run."""
        self._plan, self._begin, self._end = plan, begin, end
        self.answer: ChatStream | None = None
        self._run: ToolRun | None = None
        self._cancelled = False
        self._events: Iterator[ToolEvent] | None = None
        self._aevents: AsyncIterator[ToolEvent] | None = None

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The conversation so far: whole rounds, each call with its result."""
        return tuple(copy.deepcopy(self._plan.messages))

    def __iter__(self) -> ToolStream:
        return self

    def __next__(self) -> ToolEvent:
        if self._events is None:
            self._require_one_way(self._aevents)
            self._events = self._play()
        return next(self._events)

    def __aiter__(self) -> ToolStream:
        return self

    async def __anext__(self) -> ToolEvent:
        if self._aevents is None:
            self._require_one_way(self._events)
            self._aevents = self._aplay()
        return await anext(self._aevents)

    @property
    def run(self) -> ToolRun:
        """The whole run; goes on to its end. Raises what the run raised, and CancelledError."""
        if self._run is None:
            for _ in self:
                pass
        return self._result()

    async def arun(self) -> ToolRun:
        """`run` for coroutines."""
        if self._run is None:
            async for _ in self:
                pass
        return self._result()

    def cancel(self) -> None:
        """Stop the answer that is written; a function that runs is left to itself. The run then
        ends without a RunEnd, and `run` raises CancelledError."""
        self._cancelled = True
        if self.answer is not None:
            self.answer.cancel()

    close = cancel

    def __repr__(self) -> str:
        return f"<ToolStream of {', '.join(self._plan.callees)}>"

    def _require_one_way(self, other: object) -> None:
        if other is not None:
            raise ParameterError(
                "a run is read by `for` or by `async for`, not by both",
                hint="run goes with `for`, arun() with `async for`",
            )

    def _result(self) -> ToolRun:
        if self._run is None:
            raise CancelledError("the run was stopped before its end")
        return self._run

    def _finish(self, run: ToolRun) -> RunEnd:
        self._end(run)
        self._run = run
        return RunEnd(run)

    def _ask(self, ask: Ask) -> tuple[ChatStream, list[dict[str, Any]]]:
        stream, messages = self._begin(ask)
        self.answer = stream
        return stream, [dict(message) for message in messages]

    def _play(self) -> Iterator[ToolEvent]:
        steps = self._plan.steps()
        turn: Callable[[], Ask | Run] = lambda: next(steps)  # noqa: E731 - replaced below
        try:
            while not self._cancelled:
                try:
                    action = turn()
                except StopIteration as ended:
                    yield self._finish(ended.value)
                    return
                if isinstance(action, Run):
                    done: list[ToolStep] = []
                    for event in self._call(action.calls):
                        if isinstance(event, ToolFinished):
                            done.append(event.step)
                        yield event
                    turn = _sender(steps, done)
                    continue
                try:
                    stream, messages = self._ask(action)
                    yield from stream
                    if self._cancelled:
                        return
                    turn = _sender(steps, Answered(reply=stream.reply, messages=messages))
                except (DeadlineError, ContextFullError) as late:
                    turn = _thrower(steps, late)
        finally:
            self._stop()

    async def _aplay(self) -> AsyncIterator[ToolEvent]:
        steps = self._plan.steps()
        turn: Callable[[], Ask | Run] = lambda: next(steps)  # noqa: E731 - replaced below
        try:
            while not self._cancelled:
                try:
                    action = turn()
                except StopIteration as ended:
                    yield self._finish(ended.value)
                    return
                if isinstance(action, Run):
                    done: list[ToolStep] = []
                    async for event in self._acall(action.calls):
                        if isinstance(event, ToolFinished):
                            done.append(event.step)
                        yield event
                    turn = _sender(steps, done)
                    continue
                try:
                    stream, messages = self._ask(action)
                    async for said in stream:
                        yield said
                    if self._cancelled:
                        return
                    reply = await stream.areply()
                    turn = _sender(steps, Answered(reply=reply, messages=messages))
                except (DeadlineError, ContextFullError) as late:
                    turn = _thrower(steps, late)
        finally:
            self._stop()

    def _call(self, calls: list[Ready | ToolStep]) -> Iterator[ToolStarted | ToolFinished]:
        allowed = []
        for each in calls:
            step = each if isinstance(each, ToolStep) else self._plan.caller.allowed(each)
            if step is not None:
                yield ToolFinished(step)
            elif isinstance(each, Ready):
                allowed.append(each)
                yield ToolStarted(each.call)
        for step in self._plan.caller.run(allowed):
            yield ToolFinished(step)

    async def _acall(
        self, calls: list[Ready | ToolStep]
    ) -> AsyncIterator[ToolStarted | ToolFinished]:
        allowed = []
        for each in calls:
            step = each if isinstance(each, ToolStep) else await self._plan.caller.aallowed(each)
            if step is not None:
                yield ToolFinished(step)
            elif isinstance(each, Ready):
                allowed.append(each)
                yield ToolStarted(each.call)
        for step in await self._plan.caller.arun(allowed):
            yield ToolFinished(step)

    def _stop(self) -> None:
        """Whatever ended it, also Ctrl-C or that nobody reads on: no answer goes on unread."""
        if self._run is None and self.answer is not None:
            self.answer.cancel()


def _sender(steps: Steps, value: object) -> Callable[[], Ask | Run]:
    return lambda: steps.send(value)


def _thrower(steps: Steps, error: Exception) -> Callable[[], Ask | Run]:
    return lambda: steps.throw(error)
