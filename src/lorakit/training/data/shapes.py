"""The shapes in which data sets come, each taken apart into messages, or a prompt and a text.

Adding a shape is one function and one row of SHAPES. What the parts hold is checked in assemble.py.
Sources: OpenAI's chat fine-tuning format; TRL's dataset formats (prompt and completion, text, tools
as JSON text); ShareGPT and Alpaca as LLaMA-Factory documents them; the columns of Google's
FunctionGemma tuning lab and of its default data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.files.bounded import parse_json
from lorakit.values import among

Record = Mapping[str, Any]
ROLES = {  # ShareGPT's names
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}


class BadRowError(Exception):
    """No example can be made of a row; `code` as in Fault."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A row taken apart, not checked yet. tools: what the row itself declares.

    messages: None where the row is a prompt and a text.
    """

    messages: list[Any] | None = None
    tools: Any = None
    prompt: Any = ""
    text: Any = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A row has it if it has all of `required`; keys in neither list are not read."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    take: Callable[[Record], Parts]

    def ignores(self, record: Record) -> list[str]:
        """The keys of a row that this shape does not read."""
        return [key for key in record if key not in self.required and key not in self.optional]


def shape_of(record: Record) -> Shape:
    """The shape of a row. Raises BadRowError for a row of none."""
    for shape in SHAPES:
        if all(key in record for key in shape.required):
            return shape
    known = "; ".join(" + ".join(shape.required) for shape in SHAPES)
    found = ", ".join(map(str, list(record)[:8])) or "no keys"
    raise BadRowError(f"the row has {found}; expected one of: {known}", "shape_unknown")


def call_message(name: Any, arguments: Any) -> dict[str, Any]:
    """One call in OpenAI's shape."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def parsed(value: Any, what: str) -> Any:
    """JSON where it was written as text, as data sets do for Arrow's sake. Raises BadRowError."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode()) if value.strip() else None
    except ValueError as error:
        raise BadRowError(f"{what}: not valid JSON: {error}", "json_invalid") from None


def _messages(record: Record) -> Parts:
    return Parts(messages=_list(record["messages"], "messages"), tools=record.get("tools"))


def _pairs(record: Record) -> Parts:
    calls = calls_in(record["expectedToolCalls"], "expectedToolCalls")
    return exchange(record["userQuery"], calls, record.get("expectedResponse"), record.get("tools"))


def _columns(record: Record) -> Parts:
    calls = [call_message(record["tool_name"], record["tool_arguments"])]
    if not record["tool_name"]:
        calls = []
    return exchange(record["user_content"], calls, record.get("response"), record.get("tools"))


def _request_and_call(record: Record) -> Parts:
    calls = calls_in(record.get("call"), "call")
    return exchange(record["request"], calls, record.get("reply"), record.get("tools"))


def exchange(request: Any, calls: list[Any], reply: Any, tools: Any) -> Parts:
    """One exchange: a request, and calls or a reply in words."""
    if not calls and not reply:
        reason = "no call is expected, and there is no reply to learn instead"
        raise BadRowError(reason, "turn_missing")
    answer: dict[str, Any] = {"role": "assistant"}
    if reply:
        answer["content"] = reply
    if calls:
        answer["tool_calls"] = calls
    return Parts(messages=[{"role": "user", "content": request}, answer], tools=tools)


def calls_in(value: Any, what: str) -> list[Any]:
    """Calls in OpenAI's shape from a list of them, one, or JSON text of either."""
    found = parsed(value, what)
    found = [] if found is None else [found] if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise BadRowError(f"{what}: expected a list of calls, found {found!r:.60}", "row_invalid")
    return [_call(call, f"{what}[{i}]") for i, call in enumerate(found)]


def _call(call: Any, where: str) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(inner, dict):
        if isinstance(call, dict) and isinstance(inner, str):  # {"function": name, ...}
            inner = {**call, "name": inner}
        else:
            raise BadRowError(f"{where}: expected an object, found {call!r:.60}", "row_invalid")
    name = next((inner[key] for key in ("name", "toolName", "tool") if key in inner), None)
    keys = ("arguments", "args", "parameters", "input")
    return call_message(name, next((inner[key] for key in keys if key in inner), {}))


def _conversations(record: Record) -> Parts:
    messages = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    turns = _list(record["conversations"], "conversations")
    messages += [_turn(turn, f"conversations[{i}]") for i, turn in enumerate(turns)]
    return Parts(messages=messages, tools=record.get("tools"))


def _turn(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise BadRowError(f"{where}: expected an object with from and value", "message_invalid")
    sender, value = turn["from"], turn["value"]
    if sender == "function_call":
        return {"role": "assistant", "tool_calls": calls_in(value, f"{where}.value")}
    if not among(sender, ROLES):
        known = ", ".join((*ROLES, "function_call"))
        raise BadRowError(
            f"{where}.from: expected one of {known}, found {sender!r:.60}", "message_invalid"
        )
    return {"role": ROLES[sender], "content": value}


def _completion(record: Record) -> Parts:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return Parts(messages=[*prompt, *completion], tools=record.get("tools"))
    if record.get("tools"):
        reason = "tools beside a prompt that is text: write the row as messages"
        raise BadRowError(reason, "row_invalid")
    return Parts(prompt=prompt, text=completion)


def _alpaca(record: Record) -> Parts:
    messages = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    for i, pair in enumerate(_list(record.get("history") or [], "history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRowError(f"history[{i}]: expected [request, reply]", "message_invalid")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    request = record["instruction"]
    if record.get("input"):
        request = f"{request}\n\n{record['input']}"
    messages.append({"role": "user", "content": request})
    return Parts(messages=[*messages, {"role": "assistant", "content": record["output"]}])


def _text(record: Record) -> Parts:
    return Parts(text=record["text"])


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRowError(f"{what}: expected a list, found {value!r:.60}", "row_invalid")
    return value


SHAPES: tuple[Shape, ...] = (
    Shape(
        required=("messages",),
        optional=("tools", "parallel_tool_calls"),
        take=_messages,
    ),
    Shape(
        required=("userQuery", "expectedToolCalls"),
        optional=("expectedResponse", "tools"),
        take=_pairs,
    ),
    Shape(required=("conversations",), optional=("system", "tools"), take=_conversations),
    Shape(
        required=("user_content", "tool_name", "tool_arguments"),
        optional=("response", "tools"),
        take=_columns,
    ),
    Shape(required=("request", "call"), optional=("reply", "tools"), take=_request_and_call),
    Shape(required=("request", "reply"), optional=("tools",), take=_request_and_call),
    Shape(required=("prompt", "completion"), optional=("tools",), take=_completion),
    Shape(
        required=("instruction", "output"),
        optional=("input", "system", "history"),
        take=_alpaca,
    ),
    Shape(required=("text",), take=_text),
)
