"""The arguments and results of the tool loop, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

from lorakit.chat.calls import Malformed, ToolCall
from lorakit.errors import ParameterError
from lorakit.model.types import ChatKeywords, ChatReply, Event
from lorakit.values import among, finite, shown, whole

OnToolError = Literal["report", "raise"]
Outcome = Literal[
    "done", "failed", "timeout", "refused", "invalid", "unknown", "malformed", "left out"
]
Ended = Literal["answered", "rounds", "time", "length"]
Approve = Callable[[ToolCall], "bool | str | Awaitable[bool | str]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """What a run may take.

    rounds: how many replies are asked for; the calls of the last are still run. calls: how many of
    one reply are run, the others are told that they were too many. seconds: for the whole run;
    None is no limit. call_seconds: for each call; a function that takes longer is left to itself in
    its thread, and the model is told. None runs functions in the caller's thread, for as long as
    they take. result_characters: how much of each result the model reads.
    Raises ParameterError.
    """

    rounds: int = 10
    calls: int = 16
    seconds: float | None = None
    call_seconds: float | None = 60.0
    result_characters: int = 16_000

    def __post_init__(self) -> None:
        for name in ("rounds", "calls", "result_characters"):
            if not whole(value := getattr(self, name)) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {shown(value)}")
        for name in ("seconds", "call_seconds"):
            value = getattr(self, name)
            if value is not None and not (finite(value) and value > 0):
                raise ParameterError(f"{name} must be above 0 seconds, or None, not {shown(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStep:
    """One call of a run, and what came of it.

    round: of which reply it is, from 1. call: as the model wrote it, with an id that no other call
    of the conversation has; without a name where it could not be read (malformed says why).
    arguments: as the function was given them, None where it was not called. result: what the
    function returned. content: what the model reads of it. exception: what it raised, or why there
    is no result. seconds: how long the function ran.
    """

    round: int
    call: ToolCall
    outcome: Outcome
    content: str
    arguments: Mapping[str, Any] | None = None
    result: Any = None
    exception: BaseException | None = None
    malformed: Malformed | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the function returned and its result could be said."""
        return self.outcome == "done"

    def __str__(self) -> str:
        return f"{self.call if self.malformed is None else self.malformed.text} -> {self.content}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A conversation that went on until the model had no more calls, or a limit was met.

    `str()` of it is that of its last reply. messages: all, those that were given too; each call
    has its result, so that the conversation can go on. steps: every call in its order. ended: why
    it did; after "rounds" and "time" the last reply may be one with calls, after "length" it was
    cut off in its first call. replies: all of them.
    """

    messages: tuple[dict[str, Any], ...] = field(repr=False)
    steps: tuple[ToolStep, ...]
    replies: tuple[ChatReply, ...] = field(repr=False)
    ended: Ended
    seconds: float

    @property
    def reply(self) -> ChatReply:
        """The last reply."""
        return self.replies[-1]

    @property
    def text(self) -> str:
        """The last reply's text."""
        return self.reply.text

    @property
    def rounds(self) -> int:
        """How many replies there were."""
        return len(self.replies)

    def __str__(self) -> str:
        return str(self.reply)


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A function is about to be called: the call was read, fits and is allowed."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """What came of a call, also of one that was not run."""

    step: ToolStep


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a streamed run: all of it."""

    run: ToolRun


ToolEvent = Event | ToolStarted | ToolFinished | RunEnd


class LoopKeywords(TypedDict, total=False):
    """What the tool loop takes beside the keywords of a chat."""

    limits: ToolLimits
    on_tool_error: OnToolError
    concurrent: bool
    approve: Approve | None


class ToolKeywords(ChatKeywords, LoopKeywords, total=False):
    """The keywords of run_tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How calls are run.

    on_tool_error: what becomes of an exception of a function, or a result that cannot be said: the
    model reads it ("report"), or it is raised ("raise"). concurrent: whether the calls of one reply
    run at the same time; else in their order. approve: asked before each call: True runs it, False
    or a text with the reason does not.
    Raises ParameterError.
    """

    limits: ToolLimits = field(default_factory=ToolLimits)
    on_tool_error: OnToolError = "report"
    concurrent: bool = False
    approve: Approve | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limits, ToolLimits):
            raise ParameterError(
                f"limits are lorakit.ToolLimits(...), not {shown(self.limits)}",
                hint="lorakit.ToolLimits(rounds=5, seconds=60)",
            )
        if not among(self.on_tool_error, get_args(OnToolError)):
            found = shown(self.on_tool_error)
            raise ParameterError(f"on_tool_error must be 'report' or 'raise', not {found}")
        if not isinstance(self.concurrent, bool):
            raise ParameterError(f"concurrent must be True or False, not {shown(self.concurrent)}")
        if self.approve is not None and not callable(self.approve):
            raise ParameterError(
                f"approve is a function that is given each call, not {shown(self.approve)}"
            )
