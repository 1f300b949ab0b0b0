"""The JSON tool format of Llama 3.1, 3.2 and 3.3.

    {"name": "get_weather", "parameters": {"city": "Oslo"}}

The whole reply is the call, with <|python_tag|> before it in some settings, and `;` or white space
between several. JSON that is no call (a model asked for JSON answers in JSON) stays text. After
<|python_tag|> a model may also write Python for its built-in tools: that is reported as malformed.

Sources: Meta's Llama 3.1 prompt format page and the models' chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import NO_CALLS, BadCallError, Call, CallSyntax, ParsedReply, ToolCall
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
from lorakit.chat.formats.mending import mend_calls
from lorakit.chat.scanning import take_apart
from lorakit.chat.unfinished import sequence, unfinished

TAG = "<|python_tag|>"
_STOPS = ("<|eom_id|>", "<|eot_id|>")
_KEYS = ("parameters", "arguments")
_FIRST_KEYS = ("name", "type", "function", "parameters", "arguments")
_LIKE_A_CALL = re.compile(rf'\{{\s*"(?:{"|".join(_FIRST_KEYS)})"\s*:')
_BEGINS_LIKE_A_CALL = unfinished(
    sequence("{", r"\s*", f'"{key}"', r"\s*", ":") for key in _FIRST_KEYS
)
_BETWEEN = re.compile(rf"(?:[;\s]|{'|'.join(map(re.escape, (TAG, *_STOPS)))})*")
_BEFORE = rf"(?:\s*\}})?{_BETWEEN.pattern}"
_MAY_LEAD = re.compile(rf"[ \t\r\n]*(?:{_BEGINS_LIKE_A_CALL})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Format:
    """Replies that are calls from end to end."""

    name: str = "llama3"
    openings: tuple[str, ...] = (TAG,)
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return declaration(tool)

    def render_call(self, call: ToolCall) -> str:
        return to_json(call_as_json(call.name, call.arguments, "parameters"))

    def render_response(self, name: str, content: Any) -> str:
        return to_json({"output": content} if isinstance(content, str) else content)

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        parsed = take_apart(reply, _SYNTAX, reasons=reasons, repair=repair)
        broken = "".join(part.text for part in parsed.malformed)
        if not broken or parsed.tool_calls or TAG in reply or _names_a_function(broken):
            return parsed
        return take_apart(reply, NO_CALLS, reasons=reasons)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        rules = json_calls(functions, key="parameters")
        return CallGrammar(
            opening='{"name": ',
            first=rules.call,
            more=f'"; " {rules.call}',
            rules=rules.text,
            alone=True,
        )


def _lead(reply: str, position: int) -> int:
    """Where JSON like a call begins at a position, after white space; -1 for other words."""
    start = skip_space(reply, position)
    return start if _LIKE_A_CALL.match(reply, start) else -1


def _may_lead(reply: str, position: int) -> bool:
    return _MAY_LEAD.match(reply, position) is not None


def _find(reply: str, position: int) -> int:
    return reply.find(TAG, position)


def _read(reply: str, position: int, calls: list[Call]) -> int:
    """Calls until the end or the first fault; from there on the rest is one malformed part."""
    start = _next(reply, position)
    if start == len(reply):
        raise BadCallError("no call follows", start)
    while start < len(reply):
        try:
            position, name, arguments = read_call(reply, start, _KEYS, required=True)
        except BadCallError as error:
            begin = start if calls else position
            raise BadCallError(error.reason, error.position, begin) from error
        calls.append((name, arguments))
        start = _next(reply, position)
    return start


def _mend(text: str) -> tuple[list[Call], list[str]]:
    return mend_calls(text, _KEYS, required=True, closed=text.endswith(_STOPS), between=_BETWEEN)


_SYNTAX = CallSyntax(
    find=_find,
    read=_read,
    lead=_lead,
    openings=(TAG,),
    may_lead=_may_lead,
    revises=True,
    growing=growing(_BEFORE, _KEYS, certain=True),
    mend=_mend,
)


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
