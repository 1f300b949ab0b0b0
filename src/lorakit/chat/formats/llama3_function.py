"""Llama 3's tagged tool format: a name in a tag, and JSON after it.

    <function=get_weather>{"city": "Oslo"}</function>

Meta's page for Llama 3.1 describes it for custom tools, and Functionary v3.1 is trained on it.

Sources: Meta's Llama 3.1 prompt format page and the template of functionary-medium-v3.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.arguments import Growing
from lorakit.chat.calls import (
    BadCallError,
    Call,
    CallSyntax,
    ParsedReply,
    ToolCall,
    check_call,
)
from lorakit.chat.constraints.lark import literal
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.chat.formats.jsoncall import declaration, read_value, skip_space, to_json
from lorakit.chat.formats.jsonlist import close
from lorakit.chat.formats.jsonrules import called
from lorakit.chat.formats.mending import CLOSING, mend_arguments
from lorakit.chat.scanning import take_apart
from lorakit.errors import ParameterError

OPEN, CLOSE = "<function=", "</function>"
_STOPS = ("<|eom_id|>", "<|eot_id|>")
_NAME = re.compile(r"[^\s<>\x00]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3FunctionFormat:
    """JSON arguments between <function=name> and </function>."""

    name: str = "llama3_function"
    openings: tuple[str, ...] = (OPEN,)
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return declaration(tool)

    def render_call(self, call: ToolCall) -> str:
        return f"{OPEN}{_named(call.name)}>{to_json(dict(call.arguments))}{CLOSE}"

    def render_response(self, name: str, content: Any) -> str:
        return content if isinstance(content, str) else to_json(content)

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        rules = called(functions, lambda name: literal(f"{_named(name)}>"), literal(CLOSE))
        one = f"{mark(OPEN)} {rules.call}"
        return CallGrammar(opening=OPEN, first=one, more=one, rules=rules.text)


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"llama3_function cannot name a function {name!r}",
            hint="names without white space, < and > can be written",
        )
    return name


def _find(reply: str, position: int) -> int:
    return reply.find(OPEN, position)


def _read(reply: str, start: int, calls: list[Call]) -> int:
    name = _NAME.match(reply, start + len(OPEN))
    if not name:
        raise BadCallError("the function has no name", start + len(OPEN))
    if not reply.startswith(">", name.end()):
        raise BadCallError("expected '>' after the name", name.end())
    end, arguments = read_value(reply, skip_space(reply, name.end() + 1))
    if not isinstance(arguments, dict):
        raise BadCallError("the arguments must be an object", end)
    end = close(reply, end, CLOSE, (OPEN, *_STOPS))
    check_call(name[0], arguments, end)
    calls.append((name[0], arguments))
    return end


def _mend(text: str) -> tuple[list[Call], list[str]]:
    head = _GROWING.name.match(text)
    if not head:
        raise BadCallError("it has no name", 0)
    body = text[head.end() :].rstrip()
    for stop in _STOPS:
        body = body.removesuffix(stop).rstrip()
    closed = body.endswith(CLOSE)
    arguments, done = mend_arguments(body.removesuffix(CLOSE), closed=closed)
    return [(head["name"], arguments)], done or [CLOSING]


_GROWING = Growing(
    name=re.compile(rf"{OPEN}(?P<name>{_NAME.pattern})>"), arguments=re.compile(r"\s*(?=\{)")
)
_SYNTAX = CallSyntax(
    find=_find,
    read=_read,
    closing=CLOSE,
    stops=_STOPS,
    openings=(OPEN,),
    growing=_GROWING,
    mend=_mend,
)
LLAMA3_FUNCTION = Llama3FunctionFormat()
