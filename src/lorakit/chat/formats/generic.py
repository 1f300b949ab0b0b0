"""Calls as plain JSON: what a model writes whose template asks for it and has no tags for it.

    {"name": "get_weather", "arguments": {"city": "Oslo"}}

A list of such objects, and either in a fence (```json), are read too. As in Llama 3's format, the
whole reply is the call: JSON within words is an answer, and so is JSON that names no function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import NO_CALLS, BadCallError, Call, CallSyntax, ParsedReply, ToolCall
from lorakit.chat.constraints.lark import literal
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.chat.formats.jsoncall import call_as_json, declaration, growing, skip_space, to_json
from lorakit.chat.formats.jsonlist import KEYS, from_its_beginning, read_list
from lorakit.chat.formats.jsonrules import json_calls
from lorakit.chat.formats.mending import LIST, mend_calls
from lorakit.chat.scanning import take_apart
from lorakit.chat.unfinished import sequence, unfinished

FENCE = "```"
_LINE = "\n"
_FIRST_KEYS = ("name", "arguments", "parameters")
_SPACE = r"[ \t\r\n]*"
_LIKE_A_CALL = re.compile(
    rf'(?:{FENCE}(?:json)?{_SPACE})?(?:\[{_SPACE})?\{{{_SPACE}"(?:{"|".join(_FIRST_KEYS)})"{_SPACE}:'
)
_BEGINS_LIKE_A_CALL = unfinished(
    sequence(*fence, *bracket, "{", r"\s*", f'"{key}"', r"\s*", ":")
    for fence in ((), (FENCE, r"\s*"), (f"{FENCE}json", r"\s*"))
    for bracket in ((), ("[", r"\s*"))
    for key in _FIRST_KEYS
)
_MAY_LEAD = re.compile(rf"{_SPACE}(?:{_BEGINS_LIKE_A_CALL})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericFormat:
    """Replies that are calls from end to end."""

    name: str = "json"
    openings: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return declaration(tool)

    def render_call(self, call: ToolCall) -> str:
        return to_json(call_as_json(call.name, call.arguments))

    def render_response(self, name: str, content: Any) -> str:
        return content if isinstance(content, str) else to_json(content)

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        parsed = take_apart(reply, _SYNTAX, reasons=reasons, repair=repair)
        broken = "".join(part.text for part in parsed.malformed)
        if not broken or parsed.tool_calls or _names_a_function(broken):
            return parsed
        return take_apart(reply, NO_CALLS, reasons=reasons)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        rules = json_calls(functions)
        return CallGrammar(
            opening='{"name": ',
            first=rules.call,
            more=f"{literal(_LINE)} {rules.call}",
            rules=rules.text,
            alone=True,
        )


def _lead(reply: str, position: int) -> int:
    start = skip_space(reply, position)
    return start if _LIKE_A_CALL.match(reply, start) else -1


def _may_lead(reply: str, position: int) -> bool:
    return _MAY_LEAD.match(reply, position) is not None


def _read(reply: str, start: int, calls: list[Call]) -> int:
    """Calls until the end or the first fault; from there on the rest is one malformed part."""
    position = start
    fenced = reply.startswith(FENCE, position)
    if fenced:
        position += len(FENCE)
        position = skip_space(reply, position + 4 * reply.startswith("json", position))
    while position < len(reply):
        begin = position if calls else start
        if fenced and reply.startswith(FENCE, position):
            position, fenced = skip_space(reply, position + len(FENCE)), False
            continue
        try:
            position = read_list(reply, position, calls, required=True)
        except BadCallError as error:
            began = begin if error.begin is None else error.begin
            raise BadCallError(error.reason, error.position, began) from error
        position = _next(reply, position)
    return position


def _next(reply: str, position: int) -> int:
    """Past white space and what may stand between calls."""
    position = skip_space(reply, position)
    if reply.startswith((",", ";"), position):
        position = skip_space(reply, position + 1)
    return position


def _names_a_function(body: str) -> bool:
    return '"name"' in body and ('"parameters"' in body or '"arguments"' in body)


def _mend(text: str) -> tuple[list[Call], list[str]]:
    body = from_its_beginning(text)
    calls, done = mend_calls(body, KEYS, required=True, closed=False, between=_BETWEEN)
    return calls, [words for words in done if words != LIST]


_BETWEEN = re.compile(r"[ \t\r\n,;]*")
_SYNTAX = CallSyntax(
    find=lambda _, __: -1,
    read=_read,
    lead=_lead,
    may_lead=_may_lead,
    revises=True,
    growing=growing(
        r"\s*(?:```(?:json)?\s*)?(?:\}\s*)?(?:\]\s*)?[,;]?\s*\[?\s*", KEYS, certain=True
    ),
    mend=_mend,
)
GENERIC = GenericFormat()
