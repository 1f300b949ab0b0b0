"""Calls as a JSON list, [{"name": ..., "arguments": {...}}, ...], which several formats share.

Where a model writes one call without the list around it, that is read too.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.chat.arguments import Growing
from lorakit.chat.calls import BadCallError, Call, ToolCall
from lorakit.chat.formats.broken import past
from lorakit.chat.formats.jsoncall import call_as_json, growing, read_call, skip_space, to_json
from lorakit.chat.formats.mending import CLOSING, LIST, mend_calls

KEYS = ("arguments", "parameters")


def read_list(text: str, position: int, calls: list[Call], *, required: bool = False) -> int:
    """The calls of the list, or the one call, at `position`, appended one by one; where they end.

    required: whether a call without arguments is none. Raises BadCallError.
    """
    position = skip_space(text, position)
    if not text.startswith("[", position):
        return _append(text, position, calls, required)
    try:
        return _read_items(text, position + 1, calls, required)
    except BadCallError as error:  # no call begins within a string of those that follow, too
        raise BadCallError(
            error.reason, max(error.position, past(text, position)), error.begin
        ) from error


def _read_items(text: str, position: int, calls: list[Call], required: bool) -> int:
    """The calls of a list from behind its opening bracket on; where the list ends."""
    position = skip_space(text, position)
    if text.startswith("]", position):
        raise BadCallError("the list of calls is empty", position)
    position = _append(text, position, calls, required)
    while not text.startswith("]", position):
        if not text.startswith(",", position):
            raise BadCallError("expected ',' or ']' after a call", position, position)
        begin = skip_space(text, position + 1)
        try:
            position = _append(text, begin, calls, required)
        except BadCallError as error:
            raise BadCallError(error.reason, error.position, begin) from error
    return position + 1


def growing_list(opening: str) -> Growing:
    """How the calls of such a list are told while they are written. opening: a pattern."""
    return growing(rf"(?:(?:{opening})\s*\[?|\s*\}}\s*,)\s*", KEYS)


def mend_list(body: str, closing: str, stops: Sequence[str]) -> tuple[list[Call], list[str]]:
    """What was meant by a list that cannot be read, and what was mended.

    body: without its opening; closing: what should end it, "" where nothing does.
    """
    body = body.rstrip()
    for stop in stops:
        body = body.removesuffix(stop).rstrip()
    closed = bool(closing) and body.endswith(closing)
    body = from_its_beginning(body.removesuffix(closing))
    calls, done = mend_calls(body, KEYS, required=False, closed=closed)
    return calls, [what for what in done if what != LIST] or [CLOSING]


def from_its_beginning(body: str) -> str:
    """The end of a list as a list: where the first calls of one were read, what is left to mend
    begins in its midst."""
    body = body.strip()
    return f"[{body}" if body.startswith("{") and body.endswith("]") else body


def list_of(calls: Sequence[ToolCall]) -> str:
    """Calls as such a list. Raises ParameterError for what is no JSON."""
    return to_json([call_as_json(call.name, call.arguments) for call in calls])


def close(text: str, position: int, closing: str, follow: tuple[str, ...]) -> int:
    """After the closing tag, which may be missing at the end or before what may follow a call.

    Raises BadCallError.
    """
    position = skip_space(text, position)
    if text.startswith(closing, position):
        return position + len(closing)
    if position < len(text) and not text.startswith(follow, position):
        raise BadCallError(f"expected {closing} after the call", position)
    return position


def _append(text: str, position: int, calls: list[Call], required: bool) -> int:
    end, name, arguments = read_call(text, position, KEYS, required=required)
    calls.append((name, arguments))
    return skip_space(text, end)
