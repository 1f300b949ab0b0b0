"""Reading a JSON call out of a model's reply: one object from a position, faults as reasons.

Shared by the formats whose calls are JSON. Python's own scanner does the work; what it accepts
beyond JSON (NaN, Infinity) and what it lets pass (a key given twice) count as faults here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.chat.arguments import Growing
from lorakit.chat.calls import BadCallError, Call, check_call
from lorakit.chat.formats.broken import past
from lorakit.errors import ParameterError

WINDOW = 256  # characters
MARGIN = 16  # longer than any literal or escape that a window's end can cut
MAX_DIGITS = 1000
_NAME = r'\{\s*"name"\s*:\s*"(?P<name>(?:[^"\\]|\\.)+)"'


def growing(before: str, keys: Sequence[str], *, certain: bool = False) -> Growing:
    """How a call that `read_call` reads is told while it is written, its name before its arguments.

    before: a pattern of all that stands before its brace; where one reading takes in several calls
    also of what stands between the arguments of one and the brace of the next. certain: whether
    the name is told only once arguments follow, since other JSON may have a name too.
    """
    arguments = rf'\s*,\s*"(?:{"|".join(keys)})"\s*:\s*(?=\{{)'
    name = rf"(?:{before}){_NAME}" + (rf"(?={arguments})" if certain else "")
    return Growing(name=re.compile(name, re.DOTALL), arguments=re.compile(arguments), quoted=True)


def read_call(
    text: str, position: int, keys: Sequence[str], *, required: bool
) -> tuple[int, str, dict[str, Any]]:
    """The call {"name": ..., <one of keys>: {...}} at `position`: its end, name and arguments.

    required: without one of the keys it is no call; otherwise it is one without arguments, as it
    is where they are null. Raises BadCallError.
    """
    end, value = read_value(text, position)
    name, arguments = call_from(value, keys, end, required=required)
    return end, name, arguments


def call_from(value: Any, keys: Sequence[str], end: int, *, required: bool) -> Call:
    """The call that a JSON value is, as of `read_call`. end: where it ended, for BadCallError."""
    if not isinstance(value, dict):
        raise BadCallError("expected a JSON object", end)
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise BadCallError("the call has no name", end)
    present = [key for key in keys if key in value]
    if required and not present:
        raise BadCallError(f"the call has no {keys[0]}", end)
    if len(present) > 1:
        raise BadCallError(f"the call has both {' and '.join(present)}", end)
    arguments = value[present[0]] if present else {}
    if arguments is None and not required:
        arguments = {}
    if isinstance(arguments, str):  # some models quote the arguments, as OpenAI's API does
        arguments = _unquoted(arguments, end)
    if not isinstance(arguments, dict):
        raise BadCallError(f"{present[0]} must be an object", end)
    check_call(name, arguments, end)
    return name, arguments


def read_value(text: str, position: int) -> tuple[int, Any]:
    """The JSON value at `position` and its end. Raises BadCallError.

    It reads a window that doubles while the value seems cut off: Python's error counts the lines
    of all the text before it, which would make many faults in one reply cost its length squared.
    """
    size = WINDOW
    while True:
        whole = position + size >= len(text)
        try:
            end, value = _read_window(text[position : position + size])
            return position + end, value
        except json.JSONDecodeError as error:
            unclosed = error.msg.startswith("Unterminated string")
            cut = unclosed or error.pos > size - MARGIN
            if whole or not cut:
                at = len(text) if unclosed else max(position + error.pos, past(text, position))
                raise BadCallError(f"not valid JSON: {error.msg}", at) from error
        except RecursionError as error:
            raise BadCallError("nested too deep", len(text)) from error
        except BadCallError as error:
            raise BadCallError(error.reason, position + error.position) from error
        size *= 2


def _read_window(window: str) -> tuple[int, Any]:
    faults: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            faults.append("a key occurs twice")
        return found

    def constant(name: str) -> None:
        faults.append(f"{name} is not JSON")

    def integer(digits: str) -> int:
        if len(digits) <= MAX_DIGITS:
            return int(digits)
        faults.append("a number with too many digits")
        return 0

    def real(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            faults.append("a number too large")
        return value

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs, parse_constant=constant, parse_int=integer, parse_float=real
    )
    value, end = decoder.raw_decode(window)
    if faults:
        raise BadCallError(faults[0], end)
    return end, value


def _unquoted(arguments: str, end: int) -> Any:
    try:
        stop, value = read_value(arguments, 0)
    except BadCallError as error:
        raise BadCallError(f"the quoted arguments are {error.reason}", end) from error
    if arguments[stop:].strip():
        raise BadCallError("the quoted arguments are not one JSON value", end)
    return value


def to_json(value: Any) -> str:
    """JSON as models write it: any script as it is, NaN refused. Raises ParameterError."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ParameterError(f"not a JSON value: {error}") from error


def call_as_json(name: str, arguments: Mapping[str, Any], key: str = "arguments") -> dict[str, Any]:
    """The object that `read_call` reads. Raises ParameterError for a call without a name."""
    if not name:
        raise ParameterError("a call without a name cannot be written")
    return {"name": name, key: dict(arguments)}


def declaration(tool: Mapping[str, Any]) -> str:
    """A tool as JSON in OpenAI's wrapper, as most templates declare it. Raises ParameterError."""
    return to_json(tool if "function" in tool else {"type": "function", "function": dict(tool)})


def skip_space(text: str, position: int) -> int:
    """The first position at or after `position` that holds no white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
