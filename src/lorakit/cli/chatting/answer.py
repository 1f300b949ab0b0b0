"""How an answer is shown while it comes.

Its text as it is, its reasoning dimmed and apart, its calls as code.
"""

from __future__ import annotations

from typing import Literal

from lorakit.chat.calls import ParsedReply, ToolCall
from lorakit.chat.events import CallEnd, ReasoningDelta, TextDelta, Withdrawn
from lorakit.cli.output import say, say_folded, say_piece
from lorakit.model.types import ChatReply, Event, ReplyEnd

SHOWN = 400  # characters of what could not be read as a call
CALL, DIM, BAD = "cyan", "dim", "red"


class Answer:
    """Shows the events of one answer. said: what it has said so far.

    context: how many tokens the model holds; 0 where nobody knows. longer: what allows more of it.
    """

    def __init__(self, context: int, longer: str = "/set max_tokens N") -> None:
        self._context, self._longer = context, longer
        self.text: str = ""
        self._reasoning = ""
        self._calls: list[ToolCall] = []
        self._last: Literal["", "text", "reasoning", "call"] = ""
        self._line = False  # whether one has begun that did not end
        self._known = False  # whether the reasoning that comes was shown, as text

    @property
    def said(self) -> ParsedReply:
        """The answer so far, whether or not it has ended."""
        return ParsedReply(
            text=self.text.strip(),
            reasoning=self._reasoning.strip(),
            tool_calls=tuple(self._calls),
        )

    def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._say(event.text)
        elif isinstance(event, ReasoningDelta):
            self._reason(event.text)
        elif isinstance(event, CallEnd):
            self._calls.append(event.call)
            self.end_line()
            say((str(event.call), CALL))
            self._last = "call"
        elif isinstance(event, ReplyEnd):
            self._end(event.reply)
        elif isinstance(event, Withdrawn):  # it had not said that it was reasoning
            self.end_line()
            say_folded("(all of this was thinking)", DIM)
            self.text, self._last, self._known = "", "reasoning", True
            self._reasoning, self._calls = "", []

    def end_line(self) -> None:
        """Go on at the beginning of a line."""
        if self._line:
            say()
        self._line = False

    def _say(self, piece: str) -> None:
        self.text += piece  # before it is seen: Ctrl-C may come at once
        if self._last == "reasoning":
            self.end_line()
            say()
        self._piece(piece)
        self._last = "text"

    def _reason(self, piece: str) -> None:
        self._reasoning += piece
        if self._known:
            return
        if self._last != "reasoning":
            self.end_line()
            piece = f"thinking: {piece}"
        self._piece(piece, DIM)
        self._last = "reasoning"

    def _piece(self, piece: str, style: str = "") -> None:
        say_piece(piece, style)
        self._line = not piece.endswith("\n")

    def _end(self, reply: ChatReply) -> None:
        self.end_line()
        for bad in reply.malformed:
            text = bad.text if len(bad.text) <= SHOWN else f"{bad.text[:SHOWN]}..."
            say_folded(f"no call: {text} ({bad.reason})", BAD)
        if reply.finish_reason == "length":
            self._say_cut(reply)
        elif not (self._last or reply.malformed):
            say_folded("(the model said nothing)", DIM)

    def _say_cut(self, reply: ChatReply) -> None:
        if 0 < self._context <= reply.usage.total_tokens:
            say_folded(f"(cut off: the context of {self._context} tokens is full)", DIM)
            return
        count = reply.usage.completion_tokens
        say_folded(f"(cut off after {count} tokens; {self._longer} allows more)", DIM)
