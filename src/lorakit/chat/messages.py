"""Chat messages as callers write them, checked and made plain for a template.

Messages follow the OpenAI shape: a role; content that is text or a list of parts; an assistant's
`tool_calls`; a tool's `tool_call_id` or `name`. Further keys go to the template as they are:
templates differ in what they read. As in transformers, keys whose value is None are as if they were
not there, and reasoning, under whichever of its three names, is given under those that templates
read. Which roles may follow which is the template's to say. All faults are reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.chat.calls import call_of
from lorakit.errors import ParameterError

Message = Mapping[str, Any]
MAX_DEPTH = 64
MAX_NODES = 1_000_000
MAX_CHARACTERS = 16 << 20
A_TOOL = (
    'a tool is {"type": "function", "function": {"name": "...", "description": "...", '
    '"parameters": {...}}}, with a JSON schema as its parameters'
)
RUN_TOOLS = (
    "model.run_tools(messages, tools) declares and runs Python functions; "
    "lorakit.Tool(function).declaration only declares one"
)
REASONING = ("reasoning_content", "thinking", "reasoning")  # the first that is there counts


def prepare_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A plain copy of the messages, arguments of tool calls as objects.

    Raises ParameterError with every fault found.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ParameterError(
            f"messages must be a list of messages, found {type(messages).__name__}",
            hint='for one message write [{"role": "user", "content": "..."}]',
        )
    faults: list[str] = []
    plain = _Copier(faults).copy(list(messages), "messages")
    if not plain and not faults:
        faults.append("messages: empty")
    if not faults:
        prepared = [_message(f"messages[{i}]", message, faults) for i, message in enumerate(plain)]
    if faults:
        raise ParameterError("the messages cannot be rendered", items=faults)
    return prepared


def prepare_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """A plain copy of the tools as OpenAI function objects; None for none.

    A bare function (name, description, parameters) is wrapped. Raises ParameterError.
    """
    if not tools:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        found = type(tools).__name__
        raise ParameterError(f"tools must be a list of tools, found {found}", hint=A_TOOL)
    faults: list[str] = []
    plain = _Copier(faults).copy(list(tools), "tools")
    if not faults:
        prepared = [_tool(f"tools[{i}]", tool, faults) for i, tool in enumerate(plain)]
    if faults:
        hint = f"{RUN_TOOLS}; here {A_TOOL}" if any(map(callable, tools)) else A_TOOL
        raise ParameterError("the tools cannot be rendered", items=faults, hint=hint)
    return prepared


def prepare_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A plain copy of a template's further variables. Raises ParameterError."""
    faults: list[str] = []
    plain = _Copier(faults).copy(dict(variables), "variables")
    if faults:
        raise ParameterError("the template variables cannot be rendered", items=faults)
    return dict(plain)


class _Copier:
    """Copies JSON-like values into plain ones, so that a template holds nothing else."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        self.nodes = 0
        self.characters = 0

    def copy(self, value: object, where: str, depth: int = 0) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES or self.characters > MAX_CHARACTERS:
            if not self.faults:
                self.faults.append(f"{where}: too deep, too many values or too much text")
            return None
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            self.characters += len(value)
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, Mapping):
            return {
                self._key(key, where): self.copy(item, f"{where}.{key}", depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.copy(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
        self.faults.append(f"{where}: expected JSON values, found {_kind(value)}")
        return None

    def _key(self, key: object, where: str) -> str:
        if not isinstance(key, str):
            self.faults.append(f"{where}: keys must be strings, found {key!r}")
            return ""
        return str.__str__(key)


def _kind(value: object) -> str:
    """A value's type; of a function the name too, as people give one for a tool."""
    name = getattr(value, "__name__", "") if callable(value) else ""
    return f"{type(value).__name__} {name}".rstrip()


def _message(where: str, message: Any, faults: list[str]) -> dict[str, Any]:
    if not isinstance(message, dict):
        faults.append(f"{where}: expected an object with role and content")
        return {}
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        faults.append(f"{where}.role: expected a string such as 'user', found {role!r}")
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list):
            faults.append(f"{where}.tool_calls: expected a list")
        else:
            message["tool_calls"] = [
                _tool_call(f"{where}.tool_calls[{i}]", call, faults) for i, call in enumerate(calls)
            ]
    if isinstance(content, list) and role != "tool":
        _check_parts(f"{where}.content", content, faults)
    elif content is None and not calls:
        faults.append(f"{where}.content: expected text or a list of parts")
    elif not isinstance(content, str | list | None) and role != "tool":
        faults.append(f"{where}.content: expected text or a list of parts, found {content!r:.80}")
    return _as_templates_read({key: value for key, value in message.items() if value is not None})


def _as_templates_read(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under the names of most templates and of gpt-oss's."""
    for key in REASONING:
        if key in message:
            reasoning = message[key]
            return {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def _check_parts(where: str, parts: list[Any], faults: list[str]) -> None:
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            faults.append(f"{where}[{i}]: expected a part with a type, such as 'text'")
        elif part["type"] == "text" and not isinstance(part.get("text"), str):
            faults.append(f"{where}[{i}].text: expected a string")


def _tool_call(where: str, call: Any, faults: list[str]) -> Any:
    """A call with its arguments as an object; OpenAI has them as a JSON string."""
    try:
        arguments = dict(call_of(call, where).arguments)
    except ParameterError as error:
        faults.append(error.message)
    else:
        call.get("function", call)["arguments"] = arguments
    return call


def _tool(where: str, tool: Any, faults: list[str]) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        faults.append(f"{where}: expected a function with a name")
        return {}
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        faults.append(f"{where}.parameters: expected a JSON schema object")
    if not isinstance(function.get("description", ""), str | None):
        faults.append(f"{where}.description: expected a string")
    return dict(tool) if function is not tool else {"type": "function", "function": function}
