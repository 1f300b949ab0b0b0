"""The JSON tool format of Llama 3.1, 3.2 and 3.3.

    {"name": "get_weather", "parameters": {"city": "Oslo"}}

The whole reply is the call, with <|python_tag|> before it in some settings, and `;` or white space
between several. JSON that is no call (a model asked for JSON answers in JSON) stays text. After
<|python_tag|> a model may also write Python for its built-in tools: that is reported as malformed.

Sources: Meta's Llama 3.1 prompt format page and the models' chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import Malformed, ParsedReply, ToolCall, number_calls
from lorakit.chat.jsoncall import BadCallError, read_call, skip_space, to_json

TAG = "<|python_tag|>"
_STOPS = ("<|eom_id|>", "<|eot_id|>")
_KEYS = ("parameters", "arguments")
_LIKE_A_CALL = re.compile(r'\{\s*"(?:name|type|function|parameters|arguments)"\s*:')


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Format:
    """Replies that are calls from end to end."""

    name: str = "llama3"
    openings: tuple[str, ...] = (TAG,)
    stops: tuple[str, ...] = _STOPS

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        wrapped = tool if "function" in tool else {"type": "function", "function": dict(tool)}
        return to_json(wrapped)

    def render_call(self, call: ToolCall) -> str:
        return to_json({"name": call.name, "parameters": dict(call.arguments)})

    def render_response(self, name: str, content: Any) -> str:
        return to_json({"output": content} if isinstance(content, str) else content)

    def parse(self, reply: str) -> ParsedReply:
        before, tag, start = "", "", skip_space(reply, 0)
        if not _LIKE_A_CALL.match(reply, start):
            before, tag, _ = reply.partition(TAG)
            start = len(before) + len(tag)
            if not tag:
                return ParsedReply(text=reply)
        calls, malformed = _calls(reply, start)
        if malformed and not calls and not tag and not _names_a_function(reply):
            return ParsedReply(text=reply)
        return ParsedReply(text=before.strip(), tool_calls=number_calls(calls), malformed=malformed)


def _calls(
    reply: str, position: int
) -> tuple[list[tuple[str, dict[str, Any]]], tuple[Malformed, ...]]:
    """Calls until the end or the first fault; from there on the rest is one malformed part."""
    calls: list[tuple[str, dict[str, Any]]] = []
    start = position
    try:
        while (start := _next(reply, position)) < len(reply):
            position, name, arguments = read_call(reply, start, _KEYS, required=True)
            calls.append((name, arguments))
        if not calls:
            raise BadCallError("no call follows", position)
    except BadCallError as error:
        return calls, (Malformed(text=reply[start:], reason=error.reason, position=start),)
    return calls, ()


def _next(reply: str, position: int) -> int:
    """Past white space, `;`, a repeated tag and stop tokens."""
    while True:
        position = skip_space(reply, position)
        for token in (";", TAG, *_STOPS):
            if reply.startswith(token, position):
                position += len(token)
                break
        else:
            return position


def _names_a_function(body: str) -> bool:
    """Whether a faulty JSON reply was meant as a call, not as an answer in JSON."""
    return '"name"' in body and ('"parameters"' in body or '"arguments"' in body)


LLAMA3 = Llama3Format()
