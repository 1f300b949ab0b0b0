"""FunctionGemma's tool format, and Gemma 4's, which is the same grammar with other delimiters.

    <start_function_call>call:NAME{key:<escape>text<escape>,n:1.5,ok:true,list:[1,2],o:{k:null}}
    <end_function_call>                                           (all on one line in real output)

Strings stand between two escape delimiters and may hold anything else; keys, numbers, booleans
and null are bare; keys are sorted without regard to case, as the models' templates do it with
Jinja's dictsort. Published pages disagree about spaces, so the parser takes spaces between all
parts, keys between escapes, and `None` for null (what a template prints for it).

Sources: the FunctionGemma model card and template; Gemma 4's delimiters as in its chat template.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.chat.arguments import Growing
from lorakit.chat.calls import (
    MAX_DEPTH,
    BadCallError,
    Call,
    CallSyntax,
    ParsedReply,
    ToolCall,
    check_call,
    function_of,
)
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.chat.formats.broken import past
from lorakit.chat.formats.gemma_arguments import GemmaArguments
from lorakit.chat.formats.gemmarules import BARE_KEY, BARE_NAME, GemmaRules
from lorakit.chat.formats.mending import CLOSING, mend_arguments
from lorakit.chat.scanning import take_apart
from lorakit.errors import ParameterError

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")
_CONSTANTS = {"true": True, "false": False, "null": None, "None": None}
_CONSTANTS |= {"True": True, "False": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaFormat:
    """The grammar with its delimiters as data."""

    name: str
    declaration: tuple[str, str]
    call: tuple[str, str]
    response: tuple[str, str]
    escape: str
    turn_end: str

    @property
    def openings(self) -> tuple[str, ...]:
        return (self.call[0],)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.response[0], self.turn_end)

    @property
    def syntax(self) -> CallSyntax:
        return CallSyntax(
            find=self._find,
            read=self._read,
            closing=self.call[1],
            stops=self.stops,
            openings=self.openings,
            growing=self._growing,
            mend=self._mend,
        )

    @property
    def _growing(self) -> Growing:
        head = rf"{re.escape(self.call[0])}\s*call\s*:\s*(?P<name>{BARE_NAME.pattern})(?=\s*\{{)"
        return Growing(
            name=re.compile(head),
            arguments=re.compile(r"\s*(?=\{)"),
            reader=lambda _: GemmaArguments(self.escape),
        )

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        function = function_of(tool)
        body = f"description:{self._string(str(function.get('description') or ''))}"
        if function.get("parameters"):
            body += f",parameters:{self._schema(function['parameters'])}"
        return f"{self.declaration[0]}declaration:{function['name']}{{{body}}}{self.declaration[1]}"

    def render_call(self, call: ToolCall) -> str:
        if not BARE_NAME.fullmatch(call.name):
            raise ParameterError(f"{self.name} cannot name a function {call.name!r}")
        return f"{self.call[0]}call:{call.name}{self._value(call.arguments)}{self.call[1]}"

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, Mapping) else {"value": content}
        return f"{self.response[0]}response:{name}{self._value(body)}{self.response[1]}"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        call, rules = GemmaRules(format=self.name, escape=self.escape, mark=mark).calls(functions)
        one = f"{mark(self.call[0])} {call} {mark(self.call[1])}"
        return CallGrammar(opening=self.call[0], first=one, more=one, rules=rules)

    def _find(self, reply: str, position: int) -> int:
        return reply.find(self.call[0], position)

    def _read(self, reply: str, start: int, calls: list[Call]) -> int:
        end, call = _Parser(self, reply).call(start + len(self.call[0]))
        check_call(*call, end)
        calls.append(call)
        return end

    def _mend(self, text: str) -> tuple[list[Call], list[str]]:
        head = self._growing.name.match(text)
        if not head:
            raise BadCallError("it has no name", 0)
        body = text[head.end() :].rstrip()
        for stop in self.stops:
            body = body.removesuffix(stop).rstrip()
        closed = body.endswith(self.call[1])
        arguments, done = mend_arguments(
            body.removesuffix(self.call[1]), closed=closed, escape=self.escape
        )
        return [(head["name"], arguments)], done or [CLOSING]

    def _string(self, text: str) -> str:
        if self.escape in text:
            raise ParameterError(
                f"{self.name} cannot say a string that holds {self.escape}: {text!r:.80}"
            )
        return f"{self.escape}{text}{self.escape}"

    def _key(self, key: object) -> str:
        if not isinstance(key, str):
            raise ParameterError(f"{self.name}: keys must be strings, found {key!r:.80}")
        return key if BARE_KEY.fullmatch(key) else self._string(key)

    def _value(self, value: Any, depth: int = 0) -> str:
        if depth > MAX_DEPTH:
            raise ParameterError(f"{self.name}: nested deeper than {MAX_DEPTH} levels")
        if value is None:
            return "null"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        if isinstance(value, Mapping):
            items = sorted(value.items(), key=lambda item: str(item[0]).lower())
            parts = (f"{self._key(key)}:{self._value(item, depth + 1)}" for key, item in items)
            return "{" + ",".join(parts) + "}"
        if isinstance(value, list | tuple):
            return "[" + ",".join(self._value(item, depth + 1) for item in value) + "]"
        raise ParameterError(f"{self.name} cannot say {value!r:.80}")

    def _schema(self, schema: Mapping[str, Any], depth: int = 0) -> str:
        """A JSON schema: types in upper case, empty `required` left out, the rest as it is."""
        if depth > MAX_DEPTH:
            raise ParameterError(f"{self.name}: a schema deeper than {MAX_DEPTH} levels")
        parts = []
        for key, item in sorted(schema.items(), key=lambda pair: pair[0].lower()):
            if key == "required" and not item:
                continue
            parts.append(f"{self._key(key)}:{self._schema_item(key, item, depth)}")
        return "{" + ",".join(parts) + "}"

    def _schema_item(self, key: str, item: Any, depth: int) -> str:
        if key == "properties" and isinstance(item, Mapping):
            pairs = sorted(item.items(), key=lambda pair: str(pair[0]).lower())
            parts = (f"{self._key(name)}:{self._schema(s, depth + 1)}" for name, s in pairs)
            return "{" + ",".join(parts) + "}"
        if key == "items" and isinstance(item, Mapping):
            return self._schema(item, depth + 1)
        if key == "type":
            kinds = item.upper() if isinstance(item, str) else _upper_types(item)
            return self._value(kinds, depth + 1)
        return self._value(item, depth + 1)


def _upper_types(kinds: Any) -> list[str]:
    return [str(kind).upper() for kind in kinds if kind != "null"]


class _Parser:
    """Recursive descent over one reply; every character is looked at once."""

    def __init__(self, format: GemmaFormat, text: str) -> None:
        self.format = format
        self.text = text

    def call(self, position: int) -> tuple[int, tuple[str, dict[str, Any]]]:
        """The call whose opening tag ends at `position`; returns where it ends."""
        position = self._skip(position)
        position = self._expect(position, "call", "expected 'call:' and a name")
        position = self._expect(self._skip(position), ":", "expected 'call:' and a name")
        position = self._skip(position)
        name = BARE_NAME.match(self.text, position)
        if not name:
            raise BadCallError("the function has no name", position)
        position = self._skip(name.end())
        if not self.text.startswith("{", position):
            raise BadCallError("expected '{' after the function's name", position)
        begin = position
        try:
            position, arguments = self._object(begin, 0)
        except BadCallError as error:
            read = max(error.position, past(self.text, begin, self.format.escape))
            raise BadCallError(error.reason, read) from error
        return self._close(position), (name[0], arguments)

    def _close(self, position: int) -> int:
        """After the arguments: the closing tag, or what may follow where generation stopped."""
        position = self._skip(position)
        opening, closing = self.format.call
        if self.text.startswith(closing, position):
            return position + len(closing)
        ends = (opening, *self.format.stops)
        if position == len(self.text) or self.text.startswith(ends, position):
            return position
        raise BadCallError(f"expected {closing} after the arguments", position)

    def _value(self, position: int, depth: int) -> tuple[int, Any]:
        if depth > MAX_DEPTH:
            raise BadCallError(f"nested deeper than {MAX_DEPTH} levels", position)
        if self.text.startswith(self.format.escape, position):
            return self._string(position)
        if self.text.startswith("{", position):
            return self._object(position, depth)
        if self.text.startswith("[", position):
            return self._array(position, depth)
        return self._bare(position)

    def _string(self, position: int) -> tuple[int, str]:
        begin = position + len(self.format.escape)
        end = self.text.find(self.format.escape, begin)
        if end < 0:
            raise BadCallError(f"a string lacks its closing {self.format.escape}", len(self.text))
        return end + len(self.format.escape), self.text[begin:end]

    def _bare(self, position: int) -> tuple[int, Any]:
        word = _WORD.match(self.text, position)
        if not word:
            raise BadCallError("expected a value", position)
        if word[0] in _CONSTANTS:
            return word.end(), _CONSTANTS[word[0]]
        number = _NUMBER.fullmatch(word[0])
        if not number:
            reason = f"{word[0][:40]!r} is no number; a string stands between {self.format.escape}"
            raise BadCallError(reason, word.end())
        try:
            value = float(word[0]) if number[1] or number[2] else int(word[0])
        except ValueError as error:  # Python's limit on digits
            raise BadCallError("a number with too many digits", word.end()) from error
        if isinstance(value, float) and math.isinf(value):
            raise BadCallError(f"the number {word[0][:40]} is too large", word.end())
        return word.end(), value

    def _array(self, position: int, depth: int) -> tuple[int, list[Any]]:
        items: list[Any] = []
        position = self._skip(position + 1)
        while not self.text.startswith("]", position):
            if items:
                position = self._skip(self._expect(position, ",", "expected ',' or ']'"))
            position, item = self._value(position, depth + 1)
            items.append(item)
            position = self._skip(position)
        return position + 1, items

    def _object(self, position: int, depth: int) -> tuple[int, dict[str, Any]]:
        found: dict[str, Any] = {}
        position = self._skip(position + 1)
        while not self.text.startswith("}", position):
            if found:
                position = self._skip(self._expect(position, ",", "expected ',' or '}'"))
            position, key = self._object_key(position)
            if key in found:
                raise BadCallError(f"the key {key[:40]!r} occurs twice", position)
            position = self._expect(self._skip(position), ":", "expected ':' after a key")
            position, found[key] = self._value(self._skip(position), depth + 1)
            position = self._skip(position)
        return position + 1, found

    def _object_key(self, position: int) -> tuple[int, str]:
        if self.text.startswith(self.format.escape, position):
            return self._string(position)
        key = BARE_KEY.match(self.text, position)
        if not key:
            raise BadCallError("expected a key", position)
        return key.end(), key[0]

    def _skip(self, position: int) -> int:
        space = _SPACE.match(self.text, position)
        return space.end() if space else position

    def _expect(self, position: int, token: str, reason: str) -> int:
        if not self.text.startswith(token, position):
            raise BadCallError(reason, position)
        return position + len(token)


FUNCTIONGEMMA = GemmaFormat(
    name="functiongemma",
    declaration=("<start_function_declaration>", "<end_function_declaration>"),
    call=("<start_function_call>", "<end_function_call>"),
    response=("<start_function_response>", "<end_function_response>"),
    escape="<escape>",
    turn_end="<end_of_turn>",
)
GEMMA4 = GemmaFormat(
    name="gemma4",
    declaration=("<|tool>", "<tool|>"),
    call=("<|tool_call>", "<tool_call|>"),
    response=("<|tool_response>", "<tool_response|>"),
    escape='<|"|>',
    turn_end="<turn|>",
)
