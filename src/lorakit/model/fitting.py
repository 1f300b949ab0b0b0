"""A conversation that no longer fits in the context: it stops, or its oldest turns go.

A turn is a user's message with all that answers it: calls, their results, the reply. Turns go as a
whole; the system message and the tools stay, and so does the last turn. Summarised turns become
one turn, in which the model is asked for a summary and gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

from lorakit.errors import CapabilityError, ParameterError
from lorakit.model.types import ChatPrompt
from lorakit.values import among, shown

WhenFull = Literal["stop", "drop", "summarise"]
ANSWER = 4  # at most this part of the context is kept free for the answer, and half for a summary
KEPT = 0.75  # of the room, once turns went: else the next turn would have to drop again
SUMMARY = 256  # tokens of a summary, at most
ASK = (
    "Summarise our conversation so far in a few sentences. Keep names, numbers, what was decided "
    "and what is still open."
)
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Messages that fit, and their prompt. dropped: how many messages went; summary: of those;
    unsummarised: why there is none, where one was to be."""

    messages: Messages
    prompt: ChatPrompt
    dropped: int = 0
    summary: str = ""
    unsummarised: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a conversation is made to fit.

    context: in tokens; answer: the most tokens that the answer may have; render: makes the prompt;
    summarise: answers a conversation with at most so many tokens.
    """

    when_full: WhenFull
    context: int
    answer: int
    render: Callable[[Sequence[Mapping[str, Any]]], ChatPrompt]
    summarise: Callable[[ChatPrompt, int], str]

    def __call__(self, messages: Messages) -> Fitted:
        prompt = self.render(messages)
        room = self.context - min(self.answer, self.context // ANSWER)
        if self.when_full == "stop" or 0 < len(prompt) <= room:
            return Fitted(messages=messages, prompt=prompt)
        if not prompt:
            raise CapabilityError(
                "a conversation is not shortened where a server counts its tokens",
                hint='when_full="stop"',
            )
        head, turns = apart(messages)
        spare = self._summary if self.when_full == "summarise" else 0
        kept, prompt = self._newest(head, turns, int(room * KEPT) - spare, prompt)
        gone = turns[: len(turns) - len(kept)]
        summary, why = self._summary_of(head, gone) if gone and spare else ("", "")
        if summary:
            with_it = [_as_turn(summary), *kept]
            longer = self.render(_joined(head, with_it))
            if len(longer) > room:  # a context so small that it has no room for it
                summary, why = "", "the context has no room for it"
            else:
                kept, prompt = with_it, longer
        return Fitted(
            messages=_joined(head, kept),
            prompt=prompt,
            dropped=sum(map(len, gone)),
            summary=summary,
            unsummarised=why,
        )

    @property
    def _summary(self) -> int:
        """Tokens of a summary."""
        return max(1, min(SUMMARY, self.context // (2 * ANSWER)))

    def _newest(
        self, head: Messages, turns: list[Messages], room: int, prompt: ChatPrompt
    ) -> tuple[list[Messages], ChatPrompt]:
        """The newest turns that fit, one at least, with their prompt."""
        while len(prompt) > room and len(turns) > 1:
            turns = turns[1:]
            prompt = self.render(_joined(head, turns))
        return turns, prompt

    def _summary_of(self, head: Messages, gone: list[Messages]) -> tuple[str, str]:
        """A summary, or else why there is none."""
        turns = [*gone, [{"role": "user", "content": ASK}]]
        room = self.context - self._summary
        kept, prompt = self._newest(head, turns, room, self.render(_joined(head, turns)))
        if len(kept) < 2:
            return "", "the model cannot read one of them whole beside the question"
        summary = self.summarise(prompt, self._summary)
        return summary, "" if summary else "the model said nothing"


def apart(messages: Messages) -> tuple[Messages, list[Messages]]:
    """The system messages at the beginning, and the turns."""
    start = 0
    while start < len(messages) and messages[start].get("role") in ("system", "developer"):
        start += 1
    turns: list[Messages] = []
    for message in messages[start:]:
        if not turns or message.get("role") == "user":
            turns.append([])
        turns[-1].append(message)
    return messages[:start], turns


def require_when_full(value: object) -> None:
    """Raise ParameterError for what is none of WhenFull."""
    if not among(value, get_args(WhenFull)):
        words = ", ".join(map(repr, get_args(WhenFull)))
        raise ParameterError(f"when_full must be one of {words}, not {shown(value)}")


def _as_turn(summary: str) -> Messages:
    return [{"role": "user", "content": ASK}, {"role": "assistant", "content": summary}]


def _joined(head: Messages, turns: Sequence[Messages]) -> Messages:
    return [*head, *chain.from_iterable(turns)]
