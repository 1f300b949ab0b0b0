"""What a streamed reply is made of: text, reasoning and calls, each as soon as it is certain.

The events of one reply, joined, are its whole parse (lorakit.chat.calls.ParsedReply).
"""

from __future__ import annotations

from dataclasses import dataclass

from lorakit.chat.calls import ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the text that the model says; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks; never empty. An empty line stands between two blocks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins, of the function of this name. index: its place among the calls, from 0.

    Each call is a CallStart, at least one CallArguments, and a CallEnd; no other call comes between
    them. Where it turns out to be none, a CallWithdrawn takes the place of the rest.
    """

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; never empty. Joined they are the arguments as JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A whole call. index: its place among the reply's calls, from 0."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class CallWithdrawn:
    """What began as the call of this index is none: the next one that begins has its index."""

    index: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Text, reasoning and calls so far do not count: what follows is the whole reply.

    It comes where a model closes reasoning that nothing opened, and so says only then that all
    before it was reasoning. Run no call before the reply has ended.
    """


Delta = TextDelta | ReasoningDelta | CallStart | CallArguments | CallEnd | CallWithdrawn | Withdrawn
