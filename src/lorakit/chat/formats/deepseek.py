"""The tool format of DeepSeek R1 and its distilled models: JSON in a fence, between tokens.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Oslo"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

Further calls stand on lines of their own. The fence, and the tokens around all calls, may be
missing. Later models (V3.1, V3.2) write otherwise and are not recognised as this.

Sources: the chat templates of DeepSeek-R1 and of its distilled models.
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
from lorakit.chat.formats.jsonrules import called
from lorakit.chat.formats.mending import CLOSING, mend_arguments
from lorakit.chat.scanning import take_apart
from lorakit.errors import ParameterError

BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FENCE, FENCE_END = "```json\n", "\n```"
_LINE = "\n"
_STOPS = ("<｜end▁of▁sentence｜>",)
_OPENING = re.compile(f"{BEGIN}|{CALL}")
_TYPE = re.compile(r"[a-z_]*")
_NAME = re.compile(r"[^\s<>`{}\x00]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSeekFormat:
    """Fenced JSON between DeepSeek's tokens."""

    name: str = "deepseek"
    openings: tuple[str, ...] = (BEGIN, CALL)
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        return _SYNTAX

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        return declaration(tool)

    def render_call(self, call: ToolCall) -> str:
        body = f"{FENCE}{to_json(dict(call.arguments))}{FENCE_END}"
        return f"{BEGIN}{CALL}function{SEPARATOR}{_named(call.name)}\n{body}{CALL_END}{END}"

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, str) else to_json(content)
        return f"<｜tool▁output▁begin｜>{body}<｜tool▁output▁end｜>"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        head = f'{mark(CALL)} "function" {mark(SEPARATOR)}'
        rules = called(
            functions,
            lambda name: f"{head} {literal(_fenced(name))}",
            f"{literal(FENCE_END)} {mark(CALL_END)}",
        )
        return CallGrammar(
            opening=BEGIN,
            first=f"{mark(BEGIN)} {rules.call}",
            more=f"{literal(_LINE)} {rules.call}",
            last=mark(END),
            rules=rules.text,
        )


def _fenced(name: str) -> str:
    return f"{_named(name)}\n{FENCE}"


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"deepseek cannot name a function {name!r}",
            hint="names without white space, brackets, braces and ` can be written",
        )
    return name


def _find(reply: str, position: int) -> int:
    found = _OPENING.search(reply, position)
    return found.start() if found else -1


def _read(reply: str, start: int, calls: list[Call]) -> int:
    """All calls from an opening on; from a fault on, the rest is malformed."""
    position = begin = start
    if reply.startswith(BEGIN, start):
        position = skip_space(reply, start + len(BEGIN))
    while True:
        try:
            position, call = _one(reply, position)
        except BadCallError as error:
            raise BadCallError(error.reason, error.position, begin) from error
        calls.append(call)
        position = begin = skip_space(reply, position)
        if reply.startswith(END, position):
            return position + len(END)
        if position == len(reply) or reply.startswith((BEGIN, *_STOPS), position):
            return position
        if not reply.startswith(CALL, position):
            raise BadCallError(f"expected {END} or another call", position, position)


def _one(reply: str, position: int) -> tuple[int, Call]:
    position = _expect(reply, position, CALL)
    kind = _TYPE.match(reply, position)
    position = _expect(reply, kind.end() if kind else position, SEPARATOR)
    name = _NAME.match(reply, position)
    if not name:
        raise BadCallError("the function has no name", position)
    position = skip_space(reply, name.end())
    fenced = reply.startswith("```", position)
    if fenced:
        position = skip_space(reply, _expect(reply, position, FENCE.rstrip()))
    position, arguments = read_value(reply, position)
    if not isinstance(arguments, dict):
        raise BadCallError("the arguments must be an object", position)
    if fenced:
        position = _expect(reply, skip_space(reply, position), FENCE_END.strip())
    position = _expect(reply, skip_space(reply, position), CALL_END)
    check_call(name[0], arguments, position)
    return position, (name[0], arguments)


def _expect(reply: str, position: int, text: str) -> int:
    if not reply.startswith(text, position):
        raise BadCallError(f"expected {text}", position)
    return position + len(text)


def _mend(text: str) -> tuple[list[Call], list[str]]:
    """A single call; several are left as they are."""
    head = _GROWING.name.match(text)
    if not head or text.count(CALL) > 1:
        raise BadCallError("it is not one call with a name", 0)
    body = text[head.end() :].rstrip()
    for token in (*_STOPS, END):
        body = body.removesuffix(token).rstrip()
    closed = body.endswith(CALL_END)
    body = body.removesuffix(CALL_END).strip().removeprefix("```json").removesuffix("```")
    arguments, done = mend_arguments(body, closed=closed)
    return [(head["name"], arguments)], done or [CLOSING]


_GROWING = Growing(
    name=re.compile(
        rf"(?:\s*(?:```)?\s*{CALL_END}\s*)?(?:{BEGIN}\s*)?"
        rf"{CALL}[a-z_]*{SEPARATOR}(?P<name>{_NAME.pattern})(?=[\s`{{])"
    ),
    arguments=re.compile(r"\s*(?:```json\s*)?(?=\{)"),
)
_SYNTAX = CallSyntax(
    find=_find,
    read=_read,
    closing=END,
    stops=_STOPS,
    openings=(BEGIN, CALL),
    growing=_GROWING,
    mend=_mend,
)
DEEPSEEK = DeepSeekFormat()
