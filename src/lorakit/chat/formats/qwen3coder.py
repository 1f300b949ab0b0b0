"""The tool format of Qwen 3 Coder, Qwen 3 Next and Qwen 3.5: tags, and values as bare text.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Oslo
    </parameter>
    </function>
    </tool_call>

Texts stand as they are, other values as JSON. Whether `90210` is a text or a number, only the
declared tool says: `with_tools` gives the format that reads by these. Without it, what is JSON is
read as JSON and the rest is text; `render_call` then writes a text that is JSON as a JSON string.

Sources: the chat template of Qwen3-Coder and the parser beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lorakit.chat.arguments import Growing
from lorakit.chat.calls import (
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
from lorakit.chat.formats.jsoncall import read_value, skip_space, to_json
from lorakit.chat.formats.mending import CLOSING
from lorakit.chat.formats.qwen_arguments import QwenArguments
from lorakit.chat.formats.qwenrules import NAME, Kind, Texts, calls, is_like_others, texts_of
from lorakit.chat.scanning import take_apart
from lorakit.errors import ParameterError

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
_STOPS = ("<|im_end|>",)
_OPENING = re.compile(f"{OPEN}|{FUNCTION}")
_LIKE_JSON = re.compile(r'[\s\[{"0-9tfn-]')
_HEAD = re.compile(rf"(?:{OPEN}\s*)?{FUNCTION}(?P<name>{NAME.pattern})>")
_NOTHING_MORE = re.compile("")  # stands before the first parameter
_PYTHON = {"True": True, "False": False, "None": None}
_TRIES = 4  # closing tags within a value's JSON texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3CoderFormat:
    """Parameters between tags. texts: by function, which of its parameters are texts; None: no
    function is known."""

    name: str = "qwen3coder"
    openings: tuple[str, ...] = (OPEN, FUNCTION)
    stops: tuple[str, ...] = _STOPS
    texts: Mapping[str, Texts] | None = field(default=None, hash=False)

    @property
    def syntax(self) -> CallSyntax:
        return CallSyntax(
            find=_find,
            read=self._read,
            closing=CLOSE,
            stops=_STOPS,
            openings=self.openings,
            growing=Growing(name=_HEAD, arguments=_NOTHING_MORE, reader=self._reader),
            mend=self._mend,
        )

    def _reader(self, function: str) -> QwenArguments:
        return QwenArguments(partial(self._kind, function), _parameter)

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> Qwen3CoderFormat:
        """The format that reads and writes calls of these tools, given as OpenAI function objects,
        by the types that they declare."""
        functions = map(function_of, tools)
        return replace(self, texts={str(f.get("name")): texts_of(f) for f in functions})

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        function = function_of(tool)
        lines = [f"<name>{function['name']}</name>"]
        if function.get("description"):
            lines.append(f"<description>{function['description']}</description>")
        if function.get("parameters"):
            lines.append(f"<parameters>{to_json(function['parameters'])}</parameters>")
        return "\n".join(["<function>", *lines, "</function>"])

    def render_call(self, call: ToolCall) -> str:
        lines = [OPEN, f"{FUNCTION}{_named(call.name)}>"]
        for key, value in call.arguments.items():
            text = self._text(call.name, key, value)
            lines += [f"{PARAMETER}{_named(key)}>", text, PARAMETER_END]
        return "\n".join([*lines, FUNCTION_END, CLOSE])

    def render_response(self, name: str, content: Any) -> str:
        body = content if isinstance(content, str) else to_json(content)
        return f"<tool_response>\n{body}\n</tool_response>"

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        return take_apart(reply, self.syntax, reasons=reasons, repair=repair)

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        call, rules = calls(functions, mark(CLOSE))
        one = f"{mark(OPEN)} {call}"
        return CallGrammar(opening=OPEN, first=one, more=f'"\\n" {one}', rules=rules)

    def _kind(self, function: str, key: str) -> Kind | None:
        """What a parameter may be; None where the function is not known."""
        texts = (self.texts or {}).get(function)
        return None if texts is None else texts.kind(key)

    def _text(self, function: str, key: str, value: Any) -> str:
        if not isinstance(value, str):
            return _json(value)
        kind = self._kind(function, key)
        if kind == "text" or kind == "optional":
            if PARAMETER_END in value or (kind == "optional" and _value(value) is None):
                raise ParameterError(f"{self.name} cannot say this text: {value!r:.80}")
            return value
        plain = _value(value) == value if kind is None else not is_like_others(value)
        return value if plain and PARAMETER_END not in value else _json(value)

    def _read(self, reply: str, start: int, calls: list[Call]) -> int:
        position = start
        if reply.startswith(OPEN, start):
            position = skip_space(reply, start + len(OPEN))
        position, name = _tag(reply, position, FUNCTION)
        arguments: dict[str, Any] = {}
        position = skip_space(reply, position)
        while not reply.startswith(FUNCTION_END, position):
            position, key = _tag(reply, position, PARAMETER)
            if key in arguments:
                raise BadCallError(f"the parameter {key[:40]!r} occurs twice", position)
            position, arguments[key] = _parameter(reply, position, self._kind(name, key))
            position = skip_space(reply, position)
        position = skip_space(reply, position + len(FUNCTION_END))
        if reply.startswith(CLOSE, position):
            position += len(CLOSE)
        elif position < len(reply) and not reply.startswith((OPEN, FUNCTION, *_STOPS), position):
            raise BadCallError(f"expected {CLOSE} after the call", position)
        check_call(name, arguments, position)
        calls.append((name, arguments))
        return position

    def _mend(self, text: str) -> tuple[list[Call], list[str]]:
        """The call where tags after its last parameter are missing."""
        body = text.rstrip()
        for tag in (*_STOPS, CLOSE, FUNCTION_END):
            body = body.removesuffix(tag).rstrip()
        whole = f"{body}\n{FUNCTION_END}\n{CLOSE}"
        calls: list[Call] = []
        if self._read(whole, 0, calls) < len(whole):
            raise BadCallError("more follows the call", len(text))
        return calls, [CLOSING]


def _find(reply: str, position: int) -> int:
    found = _OPENING.search(reply, position)
    return found.start() if found else -1


def _tag(reply: str, position: int, opening: str) -> tuple[int, str]:
    """The name in a tag, and where the tag ends."""
    if not reply.startswith(opening, position):
        json = reply.startswith("{", position)  # what a model may write that knows other formats
        raise BadCallError(f"expected {opening}", past(reply, position) if json else position)
    name = NAME.match(reply, position + len(opening))
    if not name:
        raise BadCallError(f"a name is missing after {opening}", position + len(opening))
    if not reply.startswith(">", name.end()):
        raise BadCallError("expected '>' after the name", name.end())
    return name.end() + 1, name[0]


def _parameter(reply: str, start: int, kind: Kind | None) -> tuple[int, Any]:
    """The value whose opening tag ends at `start`, and where its closing tag ends.

    JSON may hold the closing tag in its strings: then a later one of the same function is its end.
    """
    close = reply.find(PARAMETER_END, start)
    if close < 0:
        raise BadCallError(f"a parameter lacks its {PARAMETER_END}", len(reply))
    end, text = close + len(PARAMETER_END), reply[start:close].removeprefix("\n").removesuffix("\n")
    if kind == "text":
        return end, text
    if kind == "optional":
        return end, None if text in ("null", "None") else text
    if not _LIKE_JSON.match(reply, start):
        return end, _value(text)
    for _ in range(_TRIES):
        value = _whole_json(reply[start:close])
        if value is not _NOTHING:
            return close + len(PARAMETER_END), value
        close = reply.find(PARAMETER_END, close + 1)
        if close < 0 or reply.find(FUNCTION_END, start, close) >= 0:
            break
    return end, _value(text)


_NOTHING = object()


def _whole_json(text: str) -> Any:
    """A text that is JSON from end to end as its value, else _NOTHING."""
    try:
        end, value = read_value(text, skip_space(text, 0))
    except BadCallError:
        return _NOTHING
    return value if skip_space(text, end) == len(text) else _NOTHING


def _value(text: str) -> Any:
    """A value where no type is declared."""
    word = text.strip(" \t\r\n")
    if word in _PYTHON:
        return _PYTHON[word]
    value = _whole_json(text)
    return text if value is _NOTHING else value


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ParameterError(
            f"qwen3coder cannot name anything {name!r}",
            hint="names without white space, < and > can be written",
        )
    return name


def _json(value: Any) -> str:
    """JSON that does not hold the closing tag."""
    return to_json(value).replace(PARAMETER_END, f"\\u003c{PARAMETER_END[1:]}")


QWEN3CODER = Qwen3CoderFormat()
