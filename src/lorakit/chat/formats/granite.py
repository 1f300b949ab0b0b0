"""The tool format of IBM's Granite 3.0 to 3.3: a JSON list after a tag.

    <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]

`<tool_call>` in its place is read too, as is one call without its list. Granite 4 writes as Hermes
does, and is recognised as that.

Sources: the models' chat templates and IBM's prompt engineering guide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import BadCallError, Call, CallSyntax, ParsedReply, ToolCall
from lorakit.chat.constraints.lark import literal
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.chat.formats.jsoncall import declaration, to_json
from lorakit.chat.formats.jsonlist import close, growing_list, list_of, mend_list, read_list
from lorakit.chat.formats.jsonrules import json_calls
from lorakit.chat.scanning import take_apart

OPEN = "<|tool_call|>"
PAIR = ("<tool_call>", "</tool_call>")
_STOPS = ("<|end_of_text|>",)
_OPENING = re.compile(f"{re.escape(OPEN)}|{re.escape(PAIR[0])}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraniteFormat:
    """A list of calls after <|tool_call|>."""

    name: str = "granite"
    openings: tuple[str, ...] = (OPEN, PAIR[0])
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return declaration(tool)

    def render_call(self, call: ToolCall) -> str:
        return f"{OPEN}{list_of([call])}"

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, str) else to_json(content)
        return f"<|start_of_role|>tool_response<|end_of_role|>{body}<|end_of_text|>"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        rules = json_calls(functions)
        return CallGrammar(
            opening=OPEN,
            first=f'{mark(OPEN)} "[" {rules.call}',
            more=f"{literal(', ')} {rules.call}",
            last='"]"',
            rules=rules.text,
        )


def _find(reply: str, position: int) -> int:
    found = _OPENING.search(reply, position)
    return found.start() if found else -1


def _read(reply: str, start: int, calls: list[Call]) -> int:
    opening, closing = PAIR
    if reply.startswith(OPEN, start):
        return read_list(reply, start + len(OPEN), calls)
    end = read_list(reply, start + len(opening), calls)
    try:
        return close(reply, end, closing, (OPEN, opening, *_STOPS))
    except BadCallError as error:
        raise BadCallError(error.reason, error.position, end) from error


def _mend(text: str) -> tuple[list[Call], list[str]]:
    closing = "" if text.startswith(OPEN) else PAIR[1]
    return mend_list(text.removeprefix(OPEN).removeprefix(PAIR[0]), closing, _STOPS)


_SYNTAX = CallSyntax(
    find=_find,
    read=_read,
    stops=_STOPS,
    openings=(OPEN, PAIR[0]),
    growing=growing_list(rf"{re.escape(OPEN)}|{PAIR[0]}"),
    mend=_mend,
)
GRANITE = GraniteFormat()
