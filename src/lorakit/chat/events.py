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
class CallEnd:
    """A whole call. index: its place among the reply's calls, from 0."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Text, reasoning and calls so far do not count: what follows is the whole reply.

    It comes where a model closes reasoning that nothing opened, and so says only then that all
    before it was reasoning. Run no call before the reply has ended.
    """


Delta = TextDelta | ReasoningDelta | CallEnd | Withdrawn
