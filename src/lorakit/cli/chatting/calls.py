"""Calls of saved messages, and tools as one would write them: set_lights(room, state)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lorakit.chat.calls import ToolCall, function_of


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
