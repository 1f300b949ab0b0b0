"""The tool format of Phi 4 mini: a JSON list between tags.

    <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>

Under some templates the model writes `functools[...]` instead, or one call without its list: both
are read.

Sources: the model card of Phi-4-mini-instruct, and its templates in llama.cpp and vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import BadCallError, Call, CallSyntax, ParsedReply, ToolCall, function_of
from lorakit.chat.constraints.lark import literal
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.chat.formats.jsoncall import to_json
from lorakit.chat.formats.jsonlist import close, growing_list, list_of, mend_list, read_list
from lorakit.chat.formats.jsonrules import json_calls
from lorakit.chat.scanning import take_apart

OPEN, CLOSE = "<|tool_call|>", "<|/tool_call|>"
BARE = "functools["
_STOPS = ("<|end|>", "<|endoftext|>")
_OPENING = re.compile(f"{re.escape(OPEN)}|{re.escape(BARE)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phi4Format:
    """A list of calls between <|tool_call|> and <|/tool_call|>."""

    name: str = "phi4"
    openings: tuple[str, ...] = (OPEN, BARE)
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return f"<|tool|>{to_json([function_of(tool)])}<|/tool|>"

    def render_call(self, call: ToolCall) -> str:
        return f"{OPEN}{list_of([call])}{CLOSE}"

    def render_response(self, name: str, content: Any) -> str:
        return f"<|tool_response|>{to_json(content)}"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        rules = json_calls(functions)
        return CallGrammar(
            opening=OPEN,
            first=f'{mark(OPEN)} "[" {rules.call}',
            more=f"{literal(', ')} {rules.call}",
            last=f'"]" {mark(CLOSE)}',
            rules=rules.text,
        )


def _find(reply: str, position: int) -> int:
    found = _OPENING.search(reply, position)
    return found.start() if found else -1


def _read(reply: str, start: int, calls: list[Call]) -> int:
    if reply.startswith(BARE, start):
        return read_list(reply, start + len(BARE) - 1, calls)
    end = read_list(reply, start + len(OPEN), calls)
    try:
        return close(reply, end, CLOSE, (OPEN, *_STOPS))
    except BadCallError as error:
        raise BadCallError(error.reason, error.position, end) from error


def _mend(text: str) -> tuple[list[Call], list[str]]:
    if text.startswith(BARE):
        return mend_list(text[len(BARE) - 1 :], "", _STOPS)
    return mend_list(text.removeprefix(OPEN), CLOSE, _STOPS)


_SYNTAX = CallSyntax(
    find=_find,
    read=_read,
    closing=CLOSE,
    stops=_STOPS,
    openings=(OPEN, BARE),
    growing=growing_list(rf"{re.escape(OPEN)}|functools"),
    mend=_mend,
)
PHI4 = Phi4Format()
