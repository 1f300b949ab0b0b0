"""Running the calls of a reply: checked, allowed, converted, called, and their results rendered.

It knows nothing of rounds. A function runs in a thread of its own that the process does not wait
for, so that one that never returns stops neither the conversation nor the program.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import inspect
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from lorakit.chat.calls import Malformed, ToolCall
from lorakit.chat.functions import Callee
from lorakit.chat.results import rendered
from lorakit.errors import ParameterError
from lorakit.model.tool_types import LoopOptions, Outcome, ToolStep
from lorakit.runtime.generation import HEARTBEAT
from lorakit.values import shown

REFUSED = "the user does not allow this call"
AT_MOST = 1000  # characters of an error that the model reads
_MARK = re.compile(r"<[^<>]{1,60}>|\[/?[A-Z_]{2,30}\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A call that fits its function. run: what calls it; awaits: whether that gives a coroutine."""

    call: ToolCall
    round: int
    arguments: Mapping[str, Any]
    run: Callable[[], Any]
    awaits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of a call that ran: a result or an exception. timed_out: neither, in time."""

    seconds: float
    result: Any = None
    exception: BaseException | None = None
    timed_out: bool = False


class Caller:
    """Runs calls of some functions. deadline: of the whole run, on time.monotonic's clock."""

    def __init__(
        self, callees: Mapping[str, Callee], options: LoopOptions, deadline: float | None
    ) -> None:
        self._callees, self._options, self._deadline = callees, options, deadline

    # Before a call.

    def prepare(self, call: ToolCall, round: int) -> Ready | ToolStep:
        """The call, ready, or what the model reads instead of a result."""
        callee = self._callees.get(call.name)
        if callee is None:
            offered = ", ".join(sorted(self._callees))
            reason = f"there is no function {shown(call.name)}; there are: {offered}"
            return not_run(call, round, "unknown", reason)
        faults = callee.faults(call)
        if faults:
            return not_run(call, round, "invalid", "; ".join(faults))
        try:
            arguments = callee.converted(call)
        except ParameterError as error:
            return not_run(call, round, "invalid", "; ".join(error.items), error)
        return Ready(
            call=call,
            round=round,
            arguments=arguments,
            run=callee.bound(arguments),
            awaits=callee.awaits,
        )

    def allowed(self, ready: Ready) -> ToolStep | None:
        """None where the call may run, else what the model reads. Raises what `approve` raises."""
        if self._options.approve is None:
            return None
        answer = self._options.approve(_copied(ready.call))
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise ParameterError(
                "approve is a coroutine function, which nobody awaits here",
                hint="arun_tools awaits it, and so does `async for` over stream_tools",
            )
        return _refusal(ready, answer)

    async def aallowed(self, ready: Ready) -> ToolStep | None:
        """`allowed` for coroutines."""
        if self._options.approve is None:
            return None
        answer = self._options.approve(_copied(ready.call))
        return _refusal(ready, await answer if inspect.isawaitable(answer) else answer)

    # The call.

    def run(self, calls: Sequence[Ready]) -> Iterator[ToolStep]:
        """Run calls at the same time; their steps in their order. Raises as on_tool_error says."""
        if self._options.limits.call_seconds is None and len(calls) == 1:
            yield self._step(calls[0], _here(calls[0].run))
            return
        started = [(ready, time.monotonic(), _in_thread(ready.run)) for ready in calls]
        for ready, begun, future in started:
            yield self._step(ready, _wait(future, begun, self._until(begun)))

    async def arun(self, calls: Sequence[Ready]) -> list[ToolStep]:
        """`run` for coroutines: a coroutine function runs in the caller's event loop."""
        tasks = [asyncio.ensure_future(self._arun(ready)) for ready in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _arun(self, ready: Ready) -> ToolStep:
        begun = time.monotonic()
        until = self._until(begun)
        left = None if until is None else max(until - begun, 0.0)
        if ready.awaits:
            work: Any = _caught(ready.run())
        else:
            work = asyncio.wrap_future(_in_thread(ready.run))
        try:
            async with asyncio.timeout(left):
                result, exception = await work
        except TimeoutError:
            ran = Ran(seconds=time.monotonic() - begun, timed_out=True)
        else:
            seconds = time.monotonic() - begun
            ran = Ran(seconds=seconds, result=result, exception=exception)
        return self._step(ready, ran)

    def _until(self, begun: float) -> float | None:
        limit = self._options.limits.call_seconds
        ends = [begun + limit] if limit is not None else []
        return min([*ends, *([self._deadline] if self._deadline is not None else [])], default=None)

    # After it.

    def _step(self, ready: Ready, ran: Ran) -> ToolStep:
        step = ToolStep(
            round=ready.round,
            call=ready.call,
            outcome="done",
            content="",
            arguments=ready.arguments,
            result=ran.result,
            seconds=ran.seconds,
        )
        if ran.timed_out:
            text = f"it did not return within {ran.seconds:.3g} seconds"
            return replace(step, outcome="timeout", content=_error(text))
        exception = ran.exception
        if exception is None:
            try:
                content = rendered(ran.result, self._options.limits.result_characters)
                return replace(step, content=content)
            except Exception as error:  # what a stranger's class raises where it is looked at, too
                exception = error
        if isinstance(exception, KeyboardInterrupt) or self._options.on_tool_error == "raise":
            raise exception
        return replace(
            step, outcome="failed", content=_error(_said(exception)), exception=exception
        )


def not_run(
    call: ToolCall,
    round: int,
    outcome: Outcome,
    reason: str,
    exception: Exception | None = None,
) -> ToolStep:
    """The step of a call that is not run."""
    return ToolStep(
        round=round, call=call, outcome=outcome, content=_error(reason), exception=exception
    )


def unread(malformed: Malformed, round: int) -> ToolStep:
    """The step of what began like a call and is none."""
    reason = unmarked(malformed.reason)
    return ToolStep(
        round=round,
        call=ToolCall(name=""),
        outcome="malformed",
        content=_error(f"a call could not be read: {reason}"),
        malformed=malformed,
    )


def unmarked(text: str) -> str:
    """A text without marks such as <|im_end|>, which it may have from a stranger: in what the user
    or the model says they would be the template's own."""
    return _MARK.sub("...", text)


def as_written(text: str) -> str:
    """What could not be read as a call, for the model to see: no mark but that which began it."""
    opening = _MARK.match(text)
    end = opening.end() if opening else 0
    return text[:end] + unmarked(text[end:])


def _copied(call: ToolCall) -> ToolCall:
    """For whoever may change it: the function and the conversation have what the model wrote."""
    return replace(call, arguments=copy.deepcopy(dict(call.arguments)))


def _refusal(ready: Ready, answer: object) -> ToolStep | None:
    if answer is True:
        return None
    if answer is not False and not isinstance(answer, str):
        raise ParameterError(
            f"approve says True, False or why not, as a text; it said {shown(answer)}"
        )
    return not_run(ready.call, ready.round, "refused", answer or REFUSED)


def _said(exception: BaseException) -> str:
    """An exception as the model reads it, whatever the text of a stranger's class is."""
    try:
        said = str(exception)
    except Exception:
        said = "it cannot say what is wrong"
    return f"{type(exception).__name__}: {said}"


def _error(text: str) -> str:
    text = text.encode(errors="backslashreplace").decode()  # half of a surrogate pair
    return f"error: {text if len(text) <= AT_MOST else text[:AT_MOST] + '...'}"


def _here(run: Callable[[], Any]) -> Ran:
    begun = time.monotonic()
    result, exception = _outcome(run)
    return Ran(seconds=time.monotonic() - begun, result=result, exception=exception)


def _in_thread(run: Callable[[], Any]) -> Future[tuple[Any, BaseException | None]]:
    """Start it in a thread that ends with the process; the caller's context variables are its."""
    future: Future[tuple[Any, BaseException | None]] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        outcome = context.run(_outcome, run)
        if future.set_running_or_notify_cancel():  # else nobody waits any more
            future.set_result(outcome)

    threading.Thread(target=work, name="lorakit-tool", daemon=True).start()
    return future


def _outcome(run: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The result of a function, of a coroutine function too, or what it raised."""
    try:
        result = run()
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    except BaseException as error:  # of the caller's function: raised or reported there
        return None, error
    return result, None


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _caught(awaitable: Any) -> tuple[Any, BaseException | None]:
    """As `_outcome`, so that its own TimeoutError is not taken for the limit, and none ends the
    event loop."""
    try:
        return await awaitable, None
    except (Exception, SystemExit) as error:
        return None, error


def _wait(
    future: Future[tuple[Any, BaseException | None]], begun: float, until: float | None
) -> Ran:
    """Wait in short turns: Ctrl-C does not interrupt a long wait everywhere."""
    while True:
        now = time.monotonic()
        left = HEARTBEAT if until is None else min(HEARTBEAT, max(until - now, 0.0))
        try:
            result, exception = future.result(left)
        except TimeoutError:
            if until is not None and time.monotonic() >= until:
                future.cancel()
                return Ran(seconds=time.monotonic() - begun, timed_out=True)
        else:
            return Ran(seconds=time.monotonic() - begun, result=result, exception=exception)
