"""The tool format of Hermes 2 Pro, which Qwen 2.5 and Qwen 3 use too: JSON between tags.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Sources: the Hermes Function Calling readme (NousResearch) and Qwen's chat templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import Malformed, ParsedReply, ToolCall, number_calls
from lorakit.chat.jsoncall import BadCallError, read_call, skip_space, to_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesFormat:
    """JSON calls between <tool_call> and </tool_call>, several in a row, words around them."""

    name: str = "hermes"
    openings: tuple[str, ...] = (OPEN,)
    stops: tuple[str, ...] = ("<|im_end|>",)

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        wrapped = tool if "function" in tool else {"type": "function", "function": dict(tool)}
        return to_json(wrapped)

    def render_call(self, call: ToolCall) -> str:
        body = to_json({"name": call.name, "arguments": dict(call.arguments)})
        return f"{OPEN}\n{body}\n{CLOSE}"

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, str) else to_json(content)
        return f"<tool_response>\n{body}\n</tool_response>"

    def parse(self, reply: str) -> ParsedReply:
        calls: list[tuple[str, dict[str, Any]]] = []
        malformed: list[Malformed] = []
        words: list[str] = []
        position = 0
        while (start := reply.find(OPEN, position)) >= 0:
            words.append(reply[position:start])
            try:
                position, call = _call(reply, start + len(OPEN))
                calls.append(call)
            except BadCallError as error:
                position = _end_of_broken(reply, max(error.position, start + len(OPEN)))
                broken = Malformed(text=reply[start:position], reason=error.reason, position=start)
                malformed.append(broken)
        words.append(reply[position:])
        text = "".join(words)
        if calls or malformed:
            text = text.strip().removesuffix(self.stops[0]).rstrip()
        return ParsedReply(text=text, tool_calls=number_calls(calls), malformed=tuple(malformed))


def _call(reply: str, position: int) -> tuple[int, tuple[str, dict[str, Any]]]:
    """The call after an opening tag; its closing tag may be cut off at the end of the reply."""
    keys = ("arguments", "parameters")
    begin = skip_space(reply, position)
    end, name, arguments = read_call(reply, begin, keys, required=False)
    end = skip_space(reply, end)
    if reply.startswith(CLOSE, end):
        return end + len(CLOSE), (name, arguments)
    if end == len(reply) or reply.startswith((OPEN, "<|im_end|>"), end):
        return end, (name, arguments)
    raise BadCallError(f"expected {CLOSE} after the call", end)


def _end_of_broken(reply: str, after: int) -> int:
    """Where a malformed call ends: after its closing tag, else before the next call."""
    following = reply.find(OPEN, after)
    limit = len(reply) if following < 0 else following
    close = reply.find(CLOSE, after, limit)
    return limit if close < 0 else close + len(CLOSE)


HERMES = HermesFormat()
