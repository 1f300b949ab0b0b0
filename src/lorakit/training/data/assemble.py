"""From the parts of a row to an example, everything in it checked.

Calls are checked against the tools that they call: the row's own, else those given with the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.chat.calls import call_of, function_of
from lorakit.chat.messages import prepare_messages, prepare_tools
from lorakit.chat.tools import validate_call
from lorakit.errors import ParameterError
from lorakit.training.data.example import Example
from lorakit.training.data.phrasing import content_text, leaves, masked, phrasing_of
from lorakit.training.data.shapes import BadRowError, Parts, call_message, parsed

Tools = tuple[Mapping[str, Any], ...]
ROLES = ("system", "developer", "user", "assistant", "model", "tool", "function")


class Declarations:
    """Tools of rows, checked once and shared by all rows that declare the same."""

    def __init__(self, given: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._known: dict[str, Tools] = {}
        self.given = self.of(given) if given else ()

    def of(self, tools: Any) -> Tools:
        """Raises BadRowError for what is no list of tools."""
        tools = parsed(tools, "tools")
        if not tools:
            return ()
        try:
            key = json.dumps(tools, default=repr)
        except RecursionError:
            raise BadRowError("tools: nested too deeply", "tools_invalid") from None
        if key not in self._known:
            self._known[key] = _checked_tools(tools)
        return self._known[key]


def _checked_tools(tools: Any) -> Tools:
    try:
        prepared = tuple(prepare_tools(tools) or ())
    except ParameterError as error:
        raise BadRowError("; ".join(error.items) or error.message, "tools_invalid") from None
    names = [function_of(tool)["name"] for tool in prepared]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadRowError(f"declared twice: {', '.join(sorted(twice))}", "tools_invalid")
    return prepared


def assemble(parts: Parts, place: str, declarations: Declarations) -> Example:
    """The example of a row. Raises BadRowError."""
    if parts.messages is None:
        return _text(parts, place)
    tools = declarations.of(parts.tools) or declarations.given
    messages = _messages(parts.messages)
    faults = list(_call_faults(messages, tools))
    if faults:
        unknown = not all(name in _names(tools) for name in _called(messages))
        raise BadRowError("; ".join(faults), "tool_unknown" if unknown else "arguments_invalid")
    return Example(
        task="calls" if tools else "chat",
        place=place,
        messages=messages,
        tools=tools,
        phrasing=phrasing_of(messages),
    )


def _text(parts: Parts, place: str) -> Example:
    for name, value in (("prompt", parts.prompt), ("text", parts.text)):
        if not isinstance(value, str):
            raise BadRowError(f"{name}: expected text, found {value!r:.60}", "row_invalid")
    if not parts.text.strip():
        raise BadRowError("there is no text to learn", "turn_missing")
    return Example(
        task="completion" if parts.prompt else "text",
        place=place,
        prompt=parts.prompt,
        text=parts.text,
        phrasing=masked(parts.prompt, ()),
    )


def _messages(rows: list[Any]) -> tuple[Mapping[str, Any], ...]:
    try:
        messages = prepare_messages(rows)
    except ParameterError as error:
        raise BadRowError("; ".join(error.items) or error.message, "message_invalid") from None
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
        if message.get("tool_calls"):
            message["tool_calls"] = [_plain_call(call) for call in message["tool_calls"]]
    _check_turns(messages)
    return tuple(messages)


def _check_message(message: dict[str, Any], where: str) -> None:
    """Refuse what a template would drop, or what could not be learnt as the file says."""
    if message["role"] not in ROLES:
        known = ", ".join(ROLES)
        raise BadRowError(
            f"{where}.role: expected one of {known}, found {message['role']!r:.60}",
            "message_invalid",
        )
    if message.get("function_call"):
        raise BadRowError(f"{where}: function_call is outdated; write tool_calls", "unsupported")
    if message["role"] == "model":
        message["role"] = "assistant"
    if message.get("weight", 1) not in (0, 1):
        raise BadRowError(
            f"{where}.weight: expected 0 or 1, found {message['weight']!r:.60}", "message_invalid"
        )
    content = message.get("content")
    kinds = {part["type"] for part in content} if isinstance(content, list) else set()
    if message["role"] not in ("tool", "function") and kinds - {"text"}:
        found = ", ".join(sorted(kinds - {"text"}))
        raise BadRowError(f"{where}: text alone can be learnt from, found {found}", "unsupported")


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    read = call_of(call)
    plain = call_message(read.name, dict(read.arguments))
    return plain if "id" not in call else {"id": call["id"], **plain}


def _check_turns(messages: Sequence[Mapping[str, Any]]) -> None:
    last = messages[-1]
    if last["role"] != "assistant":
        reason = f"it ends with a turn of the {last['role']}; there is no answer to learn"
        raise BadRowError(reason, "turn_missing")
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        raise BadRowError("every answer has weight 0; there is none to learn", "turn_missing")
    if all(message["role"] != "user" for message in messages):
        raise BadRowError("there is no turn of a user", "turn_missing")
    for i, message in enumerate(messages):
        empty = not content_text(message).strip() and not message.get("tool_calls")
        if empty and message["role"] in ("assistant", "user"):
            raise BadRowError(f"messages[{i}]: the turn is empty", "turn_missing")


def _call_faults(messages: Sequence[Mapping[str, Any]], tools: Tools) -> Iterator[str]:
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            if not tools:
                yield f"{function['name']}: no tools are declared: put a tools.json beside the file"
                return
            for path, value in leaves([function]):
                if isinstance(value, float) and not math.isfinite(value):
                    yield f"{'.'.join(map(str, (function['name'], *path[1:])))}: not finite"
            yield from validate_call(call_of(call), tools)


def _called(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    calls = (call for message in messages for call in message.get("tool_calls") or ())
    return [call["function"]["name"] for call in calls]


def _names(tools: Tools) -> set[str]:
    return {str(function_of(tool)["name"]) for tool in tools}
