"""A model's calls as code: set_lights(room="kitchen", state="off")."""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from typing import Any

from lorakit.chat.calls import ToolCall, function_of


def as_code(call: ToolCall) -> str:
    """A call as one would write it in Python."""
    names = call.arguments
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        inner = ", ".join(f"{name}={_value(value)}" for name, value in names.items())
    else:
        inner = f"**{_value(names)}"
    return f"{call.name}({inner})"


def from_openai(call: Mapping[str, Any]) -> ToolCall:
    """A call of a message, which has its arguments as JSON or as an object."""
    function = function_of(call)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return ToolCall(name=function["name"], arguments=arguments, id=call.get("id", ""))


def signature_of(tool: Mapping[str, Any]) -> str:
    """A declared tool as a call of it begins: set_lights(room, state)."""
    function = function_of(tool)
    parameters = function.get("parameters")
    names = parameters.get("properties") if isinstance(parameters, Mapping) else None
    inner = ", ".join(names) if isinstance(names, Mapping) else ""
    return f"{function.get('name', '?')}({inner})"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_value(key)}: {_value(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
