"""Tool calls as values, and what a tool format must offer.

A format is how one family of models writes declarations, calls and responses as text. It knows
nothing of tokens or templates: the prompt itself is rendered by the model's own chat template.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from lorakit.chat.arguments import Growing
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.errors import ParameterError
from lorakit.files.bounded import parse_json

MAX_DEPTH = 64  # levels of a call's arguments
A_CALL = (
    'a call is {"id": "...", "type": "function", "function": {"name": "...", "arguments": {...}}}, '
    "its arguments an object or one as JSON text"
)
Call = tuple[str, dict[str, Any]]  # its name and arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A model's request to call a function. `arguments` holds JSON values. `str()` of it is it as
    code: set_lights(state="off")."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def to_openai(self) -> dict[str, Any]:
        """The call as in an OpenAI message, with its arguments as a JSON string."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}

    def __str__(self) -> str:
        names = self.arguments
        if all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
            inner = ", ".join(f"{name}={_code(value)}" for name, value in names.items())
        else:
            inner = f"**{_code(names)}"
        return f"{self.name}({inner})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """What began like a call and is none. `position` is where it began in the reply."""

    text: str
    reason: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One thing that was mended in a call: its place among the reply's calls, from 0, and what was
    done, in words, such as "a trailing comma was dropped"."""

    index: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """A model's reply taken apart. Nothing is dropped: each part is in one of the first four.

    reasoning: what the model thought, without its tags and the space around it; several blocks
    stand apart by an empty line. repairs: what was mended in calls, where that was asked for.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    malformed: tuple[Malformed, ...] = ()
    reasoning: str = ""
    repairs: tuple[Repair, ...] = ()

    def to_message(self) -> dict[str, Any]:
        """The reply as an assistant message for the next turn; malformed calls stay out of it.

        Reasoning is under `reasoning_content`, where chat templates look for it.
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        elif message["content"] is None:
            message["content"] = ""
        return message

    def __str__(self) -> str:
        """What is to be seen: the text; else the calls, one a line; else what is malformed."""
        calls = [str(call) for call in self.tool_calls]
        faults = [f"{bad.text}\n(no call: {bad.reason})" for bad in self.malformed]
        return self.text or "\n".join(calls or faults)


def cut_off(parsed: ParsedReply, text: str) -> ParsedReply:
    """The parts of a reply that its limit of tokens ended: a call in which it ended says so.

    text: the reply, as `parsed` positions count it.
    """
    if not parsed.malformed:
        return parsed
    *others, last = parsed.malformed
    if last.position + len(last.text) < len(text.rstrip()):
        return parsed
    reason = f"cut off by max_tokens, or by the end of the context; {last.reason}"
    return replace(parsed, malformed=(*others, replace(last, reason=reason)))


class BadCallError(Exception):
    """No call stands here. `position` is how far the text was read: never read it again.

    begin: where the faulty call began, if that is not where reading did.
    """

    def __init__(self, reason: str, position: int, begin: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        self.begin = begin


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    """How calls of a format are found and read.

    find: where the next call begins at or after a position, or -1. read: the calls that begin
    there, appended to the list one by one, and where they end; raises BadCallError.
    lead: where a call without an opening begins at a position, or -1: asked at the beginning and
    after reasoning. closing: what ends a call that cannot be read; "" where nothing does.
    stops: tokens that are no words at the end of a reply with calls.
    For text that is still growing: openings, which `find` looks for; may_lead, whether what stands
    at a position may be the beginning of a lead; revises, whether a call that cannot be read may
    turn out to be text in the end; growing, how name and arguments are told before the call is
    whole (None: only then).
    mend: what was meant by a text that `read` cannot read, from where the call began to where it
    ended, delimiters included: its calls and, in words, what was mended. It reads all of the text
    or raises BadCallError. None: nothing is ever mended.
    """

    find: Callable[[str, int], int]
    read: Callable[[str, int, list[Call]], int]
    closing: str = ""
    lead: Callable[[str, int], int] = lambda _, __: -1
    stops: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()
    may_lead: Callable[[str, int], bool] = lambda _, __: False
    revises: bool = False
    growing: Growing | None = None
    mend: Callable[[str], tuple[list[Call], list[str]]] | None = None


NO_CALLS = CallSyntax(find=lambda _, __: -1, read=lambda _, position, __: position)


class ToolFormat(Protocol):
    """How one family of models writes tools as text.

    openings: strings at which a reply turns from words into a call; a stream of visible text
    holds back from there. stops: strings (tokens, in these models) that end a reply with calls.
    """

    @property
    def name(self) -> str: ...

    @property
    def openings(self) -> tuple[str, ...]: ...

    @property
    def stops(self) -> tuple[str, ...]: ...

    @property
    def syntax(self) -> CallSyntax: ...

    def render_declaration(self, tool: Mapping[str, Any]) -> str:
        """One tool, given as an OpenAI function object, as the model expects it declared."""
        ...

    def render_call(self, call: ToolCall) -> str:
        """A call as the model would write it. Raises ParameterError for what it cannot say."""
        ...

    def render_response(self, name: str, content: Any) -> str:
        """A function's result, a string or JSON value, as the model expects to read it."""
        ...

    def parse(self, reply: str, *, reasons: bool = False, repair: bool = False) -> ParsedReply:
        """Take a reply apart, in time linear in its length. Never raises.

        reasons: whether the reply begins within reasoning that the prompt opened. repair: whether
        calls that cannot be read are mended where it is clear what was meant.
        """
        ...

    def grammar(self, functions: Sequence[Function], mark: Callable[[str], str]) -> CallGrammar:
        """The calls of these functions whose arguments fit, as the model would write them.

        mark: the expression of a marker's text: a token of its own where the model has one, else
        the text in quotes. Raises ParameterError for what the format cannot write.
        """
        ...


@runtime_checkable
class TypedFormat(ToolFormat, Protocol):
    """A format that writes values as plain text: whether 90210 is a text or a number, only the
    declared tools say."""

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> ToolFormat:
        """The format that reads and writes calls of these tools, given as OpenAI function objects,
        by the types that they declare."""
        ...


def number_calls(calls: Sequence[Call], *, first: int = 0) -> tuple[ToolCall, ...]:
    """Calls with ids by position, which are unique within one reply. first: that of the first."""
    return tuple(
        ToolCall(name=name, arguments=arguments, id=f"call_{i}")
        for i, (name, arguments) in enumerate(calls, first)
    )


def check_call(name: str, arguments: Mapping[str, Any], end: int) -> None:
    """Refuse what could never be written again: half a surrogate pair, and what is nested deeper
    than messages may be. Raises BadCallError."""
    level: list[Any] = [name, arguments]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str) and not _is_text(value):
                raise BadCallError("a string holds half of a surrogate pair", end)
            if isinstance(value, Mapping):
                inner.extend(value)
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level = inner
    if level:
        raise BadCallError(f"nested deeper than {MAX_DEPTH} levels", end)


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _code(value: Any) -> str:
    """A JSON value in Python, texts in double quotes."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_code(key)}: {_code(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_code, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def call_of(call: object, where: str = "call") -> ToolCall:
    """A call of a message: in OpenAI's wrapper or bare, its arguments an object or JSON text.

    None and an empty text are no arguments. Raises ParameterError, which names `where`.
    """
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ParameterError(f"{where}: expected a function with a name", hint=A_CALL)
    arguments, place = function.get("arguments"), f"{where}.arguments"
    if isinstance(arguments, str):
        try:
            text = arguments.encode(errors="surrogatepass")
            arguments = parse_json(text) if arguments.strip() else None
        except ValueError as error:
            raise ParameterError(f"{place}: not valid JSON: {error}", hint=A_CALL) from error
    if not isinstance(arguments, Mapping | None):
        found = f"{arguments!r:.80}"
        raise ParameterError(f"{place}: expected an object, found {found}", hint=A_CALL)
    identity = call.get("id") if isinstance(call, Mapping) else None
    return ToolCall(
        name=function["name"],
        arguments=arguments or {},
        id="" if identity is None else str(identity),
    )


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function within an OpenAI tool object; a bare function is itself."""
    inner = tool.get("function", tool)
    return inner if isinstance(inner, Mapping) else tool
