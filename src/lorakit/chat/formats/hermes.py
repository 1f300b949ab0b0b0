"""The tool format of Hermes 2 Pro, which Qwen 2.5 and Qwen 3 use too: JSON between tags.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Sources: the Hermes Function Calling readme (NousResearch) and Qwen's chat templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import BadCallError, Call, CallSyntax, ParsedReply, ToolCall
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.chat.formats.jsoncall import (
    call_as_json,
    declaration,
    growing,
    read_call,
    skip_space,
    to_json,
)
from lorakit.chat.formats.jsonrules import json_calls
from lorakit.chat.formats.mending import CLOSING, mend_calls
from lorakit.chat.scanning import take_apart

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_STOPS = ("<|im_end|>",)
_KEYS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesFormat:
    """JSON calls between <tool_call> and </tool_call>, several in a row, words around them."""

    name: str = "hermes"
    openings: tuple[str, ...] = (OPEN,)
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return declaration(tool)

    def render_call(self, call: ToolCall) -> str:
        body = to_json(call_as_json(call.name, call.arguments))
        return f"{OPEN}\n{body}\n{CLOSE}"

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, str) else to_json(content)
        return f"<tool_response>\n{body}\n</tool_response>"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        rules = json_calls(functions)
        one = f'{mark(OPEN)} "\\n" {rules.call} "\\n" {mark(CLOSE)}'
        return CallGrammar(opening=OPEN, first=one, more=f'"\\n" {one}', rules=rules.text)


def _find(reply: str, position: int) -> int:
    return reply.find(OPEN, position)


def _read(reply: str, start: int, calls: list[Call]) -> int:
    """The call at an opening tag; its closing tag may be cut off at the end of the reply."""
    begin = skip_space(reply, start + len(OPEN))
    end, name, arguments = read_call(reply, begin, _KEYS, required=False)
    end = skip_space(reply, end)
    if reply.startswith(CLOSE, end):
        end += len(CLOSE)
    elif end < len(reply) and not reply.startswith((OPEN, *_STOPS), end):
        raise BadCallError(f"expected {CLOSE} after the call", end)
    calls.append((name, arguments))
    return end


def _mend(text: str) -> tuple[list[Call], list[str]]:
    body = text.removeprefix(OPEN).rstrip()
    for stop in _STOPS:
        body = body.removesuffix(stop).rstrip()
    closed = body.endswith(CLOSE)
    calls, done = mend_calls(body.removesuffix(CLOSE), _KEYS, required=False, closed=closed)
    return calls, done or [CLOSING]


_SYNTAX = CallSyntax(
    find=_find,
    read=_read,
    closing=CLOSE,
    stops=_STOPS,
    openings=(OPEN,),
    growing=growing(rf"{OPEN}\s*", _KEYS),
    mend=_mend,
)
HERMES = HermesFormat()
