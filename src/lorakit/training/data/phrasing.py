"""Where the values of calls stand in a request, and the phrasing that is left without them.

Examples whose requests differ in values, politeness, case or the final mark alone have one
phrasing: "Please set the heating to 21!" and "set the heating to 19" are both
"set the heating to {degrees}".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.training.data.frames import without_frame

MAX_REQUEST = 4000  # characters; longer requests are a phrasing of their own
MAX_VALUES = 64
Path = tuple[str | int, ...]  # of a value: the call's number, then keys and positions
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Values of calls that read the same, and where in the request they stand.

    paths: of the arguments that hold it. spans: from where to where; none overlap another value's.
    """

    value: str | int | float
    paths: tuple[Path, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """The argument's name."""
        return next(str(key) for key in reversed(self.paths[0]) if isinstance(key, str))


def request_at(messages: Sequence[Message]) -> int | None:
    """The position of the last user's turn."""
    return next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "user"), None)


def content_text(message: Message) -> str:
    """A message's text, that of its parts joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if part.get("type") == "text")


def calls_after(messages: Sequence[Message], position: int) -> list[Mapping[str, Any]]:
    """The functions called from a position on, each with name and arguments."""
    return [
        call["function"]
        for message in messages[position:]
        for call in message.get("tool_calls") or ()
    ]


def phrasing_of(messages: Sequence[Message]) -> str:
    """The last user's request with the values of the calls that follow it masked."""
    at = request_at(messages)
    if at is None:
        return ""
    request = content_text(messages[at])
    return masked(request, located(request, calls_after(messages, at)))


def masked(request: str, values: Sequence[Found]) -> str:
    """A request's phrasing, its values given."""
    if len(request) > MAX_REQUEST:
        return request.casefold()
    spans = sorted((span, found.name) for found in values for span in found.spans)
    pieces, end = [], 0
    for (start, stop), name in spans:
        pieces += [request[end:start], f"{{{name}}}"]
        end = stop
    text = "".join((*pieces, request[end:]))
    return without_frame(" ".join(text.casefold().split()))


def located(request: str, calls: Sequence[Mapping[str, Any]]) -> tuple[Found, ...]:
    """The values of calls that the request has word for word, in the order of the calls.

    A longer value is looked for first, and what it covers belongs to it. Arguments of one value
    share it, unless the request says it once for each.
    """
    values = list(leaves(calls))
    if len(request) > MAX_REQUEST or len(values) > MAX_VALUES:
        return ()
    groups: dict[str, list[tuple[Path, str | int | float]]] = {}
    for path, value in values:
        groups.setdefault(written(value).casefold(), []).append((path, value))
    taken: list[tuple[int, int]] = []
    found: list[Found] = []
    for text in sorted(groups, key=lambda text: (-len(text), text)):
        members = groups[text]
        spans = [span for span in _spans(request, members[0][1]) if _free(span, taken)]
        taken += spans
        if not spans:
            continue
        if len(members) > 1 and len(spans) == len(members):
            for (path, value), span in zip(members, spans, strict=True):
                found.append(Found(value=value, paths=(path,), spans=(span,)))
        else:
            paths = tuple(path for path, _ in members)
            found.append(Found(value=members[0][1], paths=paths, spans=tuple(spans)))
    order = {path: i for i, (path, _) in enumerate(values)}
    return tuple(sorted(found, key=lambda each: order[each.paths[0]]))


def written(value: str | int | float) -> str:
    """A value as a request would have it: 21.0 is 21."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def leaves(calls: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Path, str | int | float]]:
    """The strings and numbers within the arguments of calls, with their paths."""
    stack: list[tuple[Path, Any]] = [
        ((i,), call.get("arguments") or {}) for i, call in reversed(list(enumerate(calls)))
    ]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            stack += [((*path, key), value[key]) for key in reversed(list(value))]
        elif isinstance(value, list | tuple):
            stack += [((*path, i), value[i]) for i in reversed(range(len(value)))]
        elif isinstance(value, str):
            if value.strip():
                yield path, value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def _spans(request: str, value: str | int | float) -> list[tuple[int, int]]:
    """Where a value stands as whole words; a unit may follow a number, as in 5km."""
    text = written(value)
    before, after = r"(?<!\w)", r"(?!\w)"
    if not isinstance(value, str):
        before, after = r"(?<![\w.])", r"(?!\d|\.\d)"
    if len(text) > len(request):
        return []
    pattern = before + r"\s+".join(map(re.escape, text.split())) + after
    return [match.span() for match in re.finditer(pattern, request, re.IGNORECASE)]


def _free(span: tuple[int, int], taken: Sequence[tuple[int, int]]) -> bool:
    return all(span[1] <= start or stop <= span[0] for start, stop in taken)
