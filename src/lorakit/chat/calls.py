"""Tool calls as values, and what a tool format must offer.

A format is how one family of models writes declarations, calls and responses as text. It knows
nothing of tokens or templates: the prompt itself is rendered by the model's own chat template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A model's request to call a function. `arguments` holds JSON values."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def to_openai(self) -> dict[str, Any]:
        """The call as in an OpenAI message, with its arguments as a JSON string."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """What began like a call and is none. `position` is where it began in the reply."""

    text: str
    reason: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """A model's reply taken apart. Nothing is dropped: each part is in one of the three."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    malformed: tuple[Malformed, ...] = ()

    def to_message(self) -> dict[str, Any]:
        """The reply as an assistant message for the next turn; malformed calls stay out of it."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        elif message["content"] is None:
            message["content"] = ""
        return message


class ToolFormat(Protocol):
    """How one family of models writes tools as text.

    openings: strings at which a reply turns from words into a call; a stream of visible text
    holds back from there. stops: strings (tokens, in these models) that end a reply with calls.
    """

    @property
    def name(self) -> str: ...

    @property
    def openings(self) -> tuple[str, ...]: ...

    @property
    def stops(self) -> tuple[str, ...]: ...

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        """One tool, given as an OpenAI function object, as the model expects it declared."""
        ...

    def render_call(self, call: ToolCall) -> str:
        """A call as the model would write it. Raises ParameterError for what it cannot say."""
        ...

    def render_response(self, name: str, content: Any) -> str:
        """A function's result, a string or JSON value, as the model expects to read it."""
        ...

    def parse(self, reply: str) -> ParsedReply:
        """Take a reply apart, in time linear in its length. Never raises."""
        ...


def number_calls(calls: list[tuple[str, dict[str, Any]]]) -> tuple[ToolCall, ...]:
    """Calls with ids by position, which are unique within one reply."""
    return tuple(
        ToolCall(name=name, arguments=arguments, id=f"call_{i}")
        for i, (name, arguments) in enumerate(calls)
    )


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function within an OpenAI tool object; a bare function is itself."""
    inner = tool.get("function", tool)
    return inner if isinstance(inner, Mapping) else tool
