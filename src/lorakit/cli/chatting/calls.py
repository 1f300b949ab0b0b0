"""Tools as one would write a call of them: set_lights(room, state)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.chat.calls import function_of


def signature_of(tool: Mapping[str, Any]) -> str:
    """A declared tool as a call of it begins: set_lights(room, state)."""
    function = function_of(tool)
    parameters = function.get("parameters")
    names = parameters.get("properties") if isinstance(parameters, Mapping) else None
    inner = ", ".join(names) if isinstance(names, Mapping) else ""
    return f"{function.get('name', '?')}({inner})"
