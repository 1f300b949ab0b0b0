"""The functions of declared tools, as a constraint sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.chat.calls import function_of
from lorakit.chat.constraints.nodes import Function
from lorakit.chat.constraints.walking import Walker, refused
from lorakit.errors import ParameterError
from lorakit.values import close_to, shown

MAX_FUNCTIONS = 1000


def functions_of(tools: Sequence[Mapping[str, Any]]) -> tuple[Function, ...]:
    """The functions of OpenAI tools, bare or wrapped, in their order.

    One without parameters takes no arguments. Raises ParameterError, with all faults.
    """
    faults: list[str] = []
    found: dict[str, Function] = {}
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise ParameterError(f"tools are a list of functions, found {shown(tools)}")
    if len(tools) > MAX_FUNCTIONS:
        raise ParameterError(f"{len(tools)} tools; a constraint takes at most {MAX_FUNCTIONS}")
    for at, tool in enumerate(tools):
        function = function_of(tool) if isinstance(tool, Mapping) else {}
        name = function.get("name")
        if not isinstance(name, str) or not name:
            faults.append(f"tools[{at}]: expected a function with a name, found {shown(tool)}")
            continue
        if name in found:
            faults.append(f"tools[{at}]: there is another tool {shown(name)}")
        arguments = function.get("parameters")
        if arguments is None and (key := _meant_by(function)):
            faults.append(
                f"{name}: expected its schema under 'parameters', found it under {shown(key)}"
            )
        walker = Walker({} if arguments is None else arguments, name, True)
        schema = walker.arguments()
        faults += walker.faults
        if schema is not None:
            found[name] = Function(name=name, arguments=schema)
    if faults:
        raise refused("the tools' schemas cannot be enforced", faults)
    return tuple(found.values())


def _meant_by(function: Mapping[str, Any]) -> str | None:
    """The key that stands where `parameters` should: another API's, or a slip."""
    keys = [key for key in function if isinstance(key, str)]
    others = [key for key in keys if key in ("input_schema", "inputSchema", "params", "schema")]
    return next(iter(others or [key for key in keys if close_to(key, ("parameters",))]), None)
