"""A call in progress: what was said of one that has begun, and what has to follow once it is whole.

What was said may have been wrong, since a call is told before it can be read: then it is withdrawn
and told anew, so that the events of a call always come to the call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.calls import ParsedReply, ToolCall
from lorakit.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    CallWithdrawn,
    Delta,
    ReasoningDelta,
    TextDelta,
    Withdrawn,
)


@dataclass(slots=True)
class CallInProgress:
    """A call of which a CallStart was said; arguments: the pieces that were."""

    index: int
    name: str
    arguments: list[str] = field(default_factory=list)

    def add(self, text: str) -> list[Delta]:
        """More of its arguments."""
        if not text:
            return []
        self.arguments.append(text)
        return [CallArguments(self.index, text)]

    def end(self, call: ToolCall) -> list[Delta]:
        """The rest of it, now that it is whole."""
        said = "".join(self.arguments)
        if self.name == call.name:
            if _is_json_of(said, call.arguments):
                return [CallEnd(self.index, call)]
            if (text := _json(call.arguments)).startswith(said):
                return [*self.add(text[len(said) :]), CallEnd(self.index, call)]
        return [*self.withdraw(), *whole_call(self.index, call)]

    def withdraw(self) -> list[Delta]:
        """It is none."""
        return [CallWithdrawn(self.index)]


def whole_call(index: int, call: ToolCall) -> list[Delta]:
    """The events of a call of which nothing was said before."""
    return [
        CallStart(index, call.name),
        CallArguments(index, _json(call.arguments)),
        CallEnd(index, call),
    ]


def told_anew(parsed: ParsedReply) -> list[Delta]:
    """The events of a whole reply, where those before do not count."""
    events: list[Delta] = [Withdrawn()]
    if parsed.reasoning:
        events.append(ReasoningDelta(parsed.reasoning))
    if parsed.text:
        events.append(TextDelta(parsed.text))
    for index, call in enumerate(parsed.tool_calls):
        events += whole_call(index, call)
    return events


def _json(arguments: Mapping[str, Any]) -> str:
    """As `ToolCall.to_openai` writes it."""
    return json.dumps(arguments, ensure_ascii=False)


def _is_json_of(text: str, arguments: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(text) == arguments)
    except (ValueError, RecursionError):
        return False
