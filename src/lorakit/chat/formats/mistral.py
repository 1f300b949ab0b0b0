"""Mistral's two tool formats: a JSON list after a tag (to 2025), and a tag before each call.

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]
    [TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}

In the newer one Mistral Small 3.2 writes [CALL_ID] and nine letters or digits before [ARGS]. Both
readers read either form, since fine-tuned models mix them.

Sources: the chat templates of Mistral 7B v0.3, Nemo, Small 3.1 and 3.2; mistral-common.
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
from lorakit.chat.formats.jsoncall import read_value, skip_space, to_json
from lorakit.chat.formats.jsonlist import growing_list, list_of, mend_list, read_list
from lorakit.chat.formats.jsonrules import called, json_calls
from lorakit.chat.formats.mending import CLOSING, mend_arguments
from lorakit.chat.scanning import take_apart
from lorakit.errors import ParameterError

TAG, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_STOPS = ("</s>",)
_NAME = re.compile(r"[^\s\[\]{}\x00]+")
_ID = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class MistralFormat:
    """Calls after [TOOL_CALLS]. listed: as one JSON list, not with a tag for each."""

    name: str
    listed: bool
    openings: tuple[str, ...] = (TAG,)
    stops: tuple[str, ...] = _STOPS

    @property
    def syntax(self) -> CallSyntax:
        growing = _GROWING_LIST if self.listed else _GROWING
        return CallSyntax(
            find=_find, read=_read, stops=_STOPS, openings=(TAG,), growing=growing, mend=_mend
        )

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        wrapped = tool if "function" in tool else {"type": "function", "function": dict(tool)}
        space = " " if self.listed else ""
        return f"[AVAILABLE_TOOLS]{space}{to_json([wrapped])}[/AVAILABLE_TOOLS]"

    def render_call(self, call: ToolCall) -> str:
        if self.listed:
            return f"{TAG} {list_of([call])}"
        return f"{TAG}{self._name(call.name)}{ARGUMENTS}{to_json(dict(call.arguments))}"

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, str) else to_json(content)
        inner = f" {to_json({'content': content})}" if self.listed else body
        return f"[TOOL_RESULTS]{inner}[/TOOL_RESULTS]"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        if self.listed:
            rules = json_calls(functions)
            return CallGrammar(
                opening=TAG,
                first=f'{mark(TAG)} " "? "[" {rules.call}',
                more=f"{literal(', ')} {rules.call}",
                last='"]"',
                rules=rules.text,
            )
        identity = f"({mark(ID)} /[A-Za-z0-9]{{9}}/)?"
        rules = called(
            functions, lambda name: f"{literal(self._name(name))} {identity} {mark(ARGUMENTS)}", ""
        )
        one = f"{mark(TAG)} {rules.call}"
        return CallGrammar(opening=TAG, first=one, more=one, rules=rules.text)

    def _name(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ParameterError(
                f"{self.name} cannot name a function {name!r}",
                hint="names without brackets, braces and white space can be written",
            )
        return name


def _find(reply: str, position: int) -> int:
    return reply.find(TAG, position)


def _read(reply: str, start: int, calls: list[Call]) -> int:
    position = skip_space(reply, start + len(TAG))
    if reply.startswith(("[", "{"), position) and not reply.startswith(ARGUMENTS, position):
        return read_list(reply, position, calls)
    name = _NAME.match(reply, position)
    if not name:
        raise BadCallError("expected a list of calls or a name", position)
    position = skip_space(reply, name.end())
    if reply.startswith(ID, position):
        identity = _ID.match(reply, position + len(ID))
        if not identity:
            raise BadCallError(f"expected an identity after {ID}", position + len(ID))
        position = skip_space(reply, identity.end())
    if reply.startswith(ARGUMENTS, position):
        position = skip_space(reply, position + len(ARGUMENTS))
    elif not reply.startswith("{", position):
        raise BadCallError(f"expected {ARGUMENTS} after the name", position)
    end, arguments = read_value(reply, position)
    if not isinstance(arguments, dict):
        raise BadCallError("the arguments must be an object", end)
    check_call(name[0], arguments, end)
    calls.append((name[0], arguments))
    return end


def _mend(text: str) -> tuple[list[Call], list[str]]:
    head = _GROWING.name.match(text)
    if not head:
        return mend_list(text.removeprefix(TAG), "", _STOPS)
    follows = _GROWING.arguments.match(text, head.end())
    body = text[follows.end() if follows else head.end() :].rstrip()
    for stop in _STOPS:
        body = body.removesuffix(stop).rstrip()
    arguments, done = mend_arguments(body, closed=False)
    return [(head["name"], arguments)], done or [CLOSING]


_GROWING_LIST = growing_list(re.escape(TAG))
_GROWING = Growing(
    name=re.compile(rf"{re.escape(TAG)}\s*(?P<name>{_NAME.pattern})(?=\s*[\[{{])"),
    arguments=re.compile(r"\s*(?:\[CALL_ID\][A-Za-z0-9]+\s*)?(?:\[ARGS\]\s*)?(?=\{)"),
)
MISTRAL = MistralFormat(name="mistral", listed=True)
MISTRAL11 = MistralFormat(name="mistral11", listed=False)
