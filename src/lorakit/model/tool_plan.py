"""What a run of tools does next: ask, run the calls of the reply, say what came of them, ask again.

It neither waits nor runs anything: lorakit.model.tool_loop does, and sends back what came of it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from lorakit.chat.calls import ToolCall
from lorakit.chat.functions import Callee, Tool, callees_of
from lorakit.chat.messages import Message, prepare_messages
from lorakit.errors import ContextFullError, DeadlineError
from lorakit.model.prompts import deadline_of
from lorakit.model.tool_calls import Caller, Ready, as_written, not_run, unread
from lorakit.model.tool_types import (
    Ended,
    LoopKeywords,
    LoopOptions,
    ToolKeywords,
    ToolRun,
    ToolStep,
)
from lorakit.model.types import ChatKeywords, ChatReply, Tools

Functions = Iterable[Callable[..., Any] | Tool]
AGAIN = "{}. Write the call again, whole and in your format, or answer without it."
FULL = (
    "the results of calls fill it: ToolLimits(result_characters=...) cuts each; the messages of "
    "stream_tools have the rounds that were whole"
)
FAULTS = 5  # of one reply that the model reads
IN_EVERY_ROUND = (None, "auto", "none", "free")  # any other choice wants a call, again and again


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The model is to answer. timeout: in seconds, for this answer."""

    messages: list[dict[str, Any]]
    tools: Tools
    options: ChatKeywords
    timeout: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A reply, and the messages that it answers: fewer than it was asked, where the context was
    full."""

    reply: ChatReply
    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Calls to be run together, after `approve` allowed each; steps are of those that are not."""

    calls: list[Ready | ToolStep]


Steps = Generator[Ask | Run, Any, ToolRun]


class Plan:
    """What a run does. messages: so far, whole rounds alone."""

    def __init__(
        self,
        messages: Sequence[Message],
        tools: Functions,
        keywords: ToolKeywords,
        timeout: float | None,
    ) -> None:
        own, self._chat = split_loop(keywords)
        self.options = LoopOptions(**own)
        self.callees: Mapping[str, Callee] = callees_of(tools)
        self.messages = _copied(messages)
        self._timeout = timeout
        deadline_of(timeout)  # raises what is wrong with it
        self._begun = time.monotonic()
        self.deadline = deadline_of(self.options.limits.seconds)
        self.caller = Caller(self.callees, self.options, self.deadline)
        self._steps: list[ToolStep] = []
        self._replies: list[ChatReply] = []

    def steps(self) -> Steps:
        """What to do, one after the other: an Ask wants an Answered sent back, a Run its steps.

        DeadlineError is thrown in where an answer had no time, ContextFullError where it had no
        room. Returns the run.
        """
        for round in range(1, self.options.limits.rounds + 1):
            if self._replies and self._late():
                return self._ended("time")
            try:
                answered: Answered = yield self._ask(round)
            except DeadlineError:
                if self._replies and self._late():
                    return self._ended("time")
                raise
            except ContextFullError as error:
                if self._replies:
                    error.hint = FULL
                raise
            self._replies.append(answered.reply)
            if not (answered.reply.tool_calls or answered.reply.malformed):
                self.messages = [*answered.messages, answered.reply.message]
                return self._ended("answered")
            calls = _identified(answered)
            steps: list[ToolStep] = []
            for group in self._groups(calls, answered.reply, round):
                steps += yield group
            places = {call.id: place for place, call in enumerate(calls)}
            steps.sort(key=lambda step: places.get(step.call.id, len(places)))
            self._steps += steps
            if answered.reply.finish_reason == "length" and not calls:  # as the next would be
                self.messages = [*answered.messages, answered.reply.message]
                return self._ended("length")
            self.messages = [*answered.messages, *_said(answered.reply, calls, steps)]
        return self._ended("rounds")

    def _ask(self, round: int) -> Ask:
        left = None if self.deadline is None else max(self.deadline - time.monotonic(), 1e-3)
        limits = [limit for limit in (left, self._timeout) if limit is not None]
        options = dict(self._chat)
        if round > 1 and options.get("tool_choice") not in IN_EVERY_ROUND:
            options["tool_choice"] = "auto"
        declared = [callee.declaration for callee in self.callees.values()]
        return Ask(
            messages=self.messages,
            tools=declared,
            options=cast(ChatKeywords, options),
            timeout=min(limits, default=None),
        )

    def _groups(self, calls: Sequence[ToolCall], reply: ChatReply, round: int) -> Iterator[Run]:
        """The calls of a reply, by what runs at the same time."""
        most = self.options.limits.calls
        prepared = [self.caller.prepare(call, round) for call in calls[:most]]
        if self.options.concurrent and prepared:
            yield Run(calls=prepared)
        else:
            yield from (Run(calls=[each]) for each in prepared)
        reason = f"more than {most} calls in one reply"
        others = [not_run(call, round, "left out", reason) for call in calls[most:]]
        if others := [*others, *(unread(malformed, round) for malformed in reply.malformed)]:
            yield Run(calls=[*others])

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _ended(self, why: Ended) -> ToolRun:
        return ToolRun(
            messages=tuple(copy.deepcopy(self.messages)),
            steps=tuple(self._steps),
            replies=tuple(self._replies),
            ended=why,
            seconds=time.monotonic() - self._begun,
        )


def split_loop(keywords: ToolKeywords) -> tuple[LoopKeywords, ChatKeywords]:
    """What is the loop's, and what each answer's."""
    own = {k: v for k, v in keywords.items() if k in LoopKeywords.__annotations__}
    rest = {k: v for k, v in keywords.items() if k not in own}
    return cast(LoopKeywords, own), cast(ChatKeywords, rest)


def _copied(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Raises ParameterError for what are no messages; what each holds the model checks."""
    plain = isinstance(messages, list | tuple) and all(isinstance(m, Mapping) for m in messages)
    if not plain or not messages:
        prepare_messages(messages)
    return [copy.deepcopy(dict(message)) for message in messages]


def _identified(answered: Answered) -> list[ToolCall]:
    """The calls of a reply, each with an id that no earlier one has."""
    taken = {
        str(call.get("id"))
        for message in answered.messages
        for call in message.get("tool_calls") or ()
        if isinstance(call, Mapping)
    }
    calls: list[ToolCall] = []
    for call in answered.reply.tool_calls:
        number, name = len(taken), call.id
        while not name or name in taken:
            name, number = f"call_{number}", number + 1
        taken.add(name)
        calls.append(replace(call, id=name))
    return calls


def _said(reply: ChatReply, calls: list[ToolCall], steps: list[ToolStep]) -> list[dict[str, Any]]:
    """The messages of a round: the reply, and what came of its calls, in the order of the calls.

    What could not be read as a call has no id to answer. The last result says so, or the user
    where there is none.
    """
    said = dict.fromkeys(step.content for step in steps if step.malformed is not None)
    faults = "\n".join([*said][:FAULTS])
    message = reply.message
    if not calls:
        message["content"] = message["content"] or as_written(reply.malformed[0].text)
        return [message, {"role": "user", "content": AGAIN.format(faults)}]
    message["tool_calls"] = [call.to_openai() for call in calls]
    read = {step.call.id: step.content for step in steps if step.malformed is None}
    results = [
        {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": read[call.id]}
        for call in calls
    ]
    if faults:
        results[-1]["content"] += f"\n{faults}"
    return [message, *results]
