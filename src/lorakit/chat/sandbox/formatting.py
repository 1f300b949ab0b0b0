"""Format strings: `%`, `str.format` and the pattern of strftime_now, each a bounded part of its own
language. Widths and precisions have at most three digits and are never taken from an argument;
fields name arguments, not their attributes or items.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from markupsafe import Markup

from lorakit.chat.sandbox.budget import LimitError, make_text, read, spend
from lorakit.chat.sandbox.listed import forbidden
from lorakit.chat.sandbox.writing import Pieces, to_repr, to_text

MAX_TIME = 1000  # characters of a strftime pattern
_DIRECTIVES = 64  # characters, more than any one directive makes in any locale
_PERCENT = re.compile(
    r"%(?:\((?P<key>[^()]*)\))?(?P<flags>[#0\- +]{0,5})(?P<width>\d{0,4})"
    r"(?:\.(?P<precision>\d{0,4}))?[hlL]?(?P<type>.)",
    re.DOTALL,
)
_NUMERIC = "diuoxXeEfFgG"
_SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?(\d{0,4})[,_]?(?:\.(\d{0,4}))?[a-zA-Z%]?", re.DOTALL)
_FIELD = re.compile(r"(\w*)(?:!([rs]))?(?::(.*))?", re.DOTALL)
_BRACES = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")
_TIME = re.compile(r"%(?![-_0^#]?[A-Za-z%])")


def percent(pattern: str, values: Any) -> str:
    """`pattern % values`. Raises LimitError for wide fields, TypeError as Python does."""
    _check_plain(pattern, "%")
    read(pattern)
    pieces, position = Pieces(), 0
    given = _Arguments(values)
    for match in _PERCENT.finditer(pattern):
        pieces.add(pattern[position : match.start()])
        position = match.end()
        pieces.add("%" if match[0] == "%%" else _converted(match, given))
    rest = pattern[position:]
    if "%" in rest:
        raise ValueError("incomplete format")
    pieces.add(rest)
    given.check_used()
    return pieces.text()


class _Arguments:
    """What stands at the right of `%`: a tuple in order, a mapping by name, or one value."""

    def __init__(self, values: Any) -> None:
        self._named = values if isinstance(values, dict) else None
        self._values = values if isinstance(values, tuple) else (values,)
        self._next = 0

    def take(self, key: str | None) -> Any:
        if key is not None:
            if self._named is None:
                raise TypeError("format requires a mapping")
            return self._named[key]
        if self._next == len(self._values):
            raise TypeError("not enough arguments for format string")
        self._next += 1
        return self._values[self._next - 1]

    def check_used(self) -> None:
        if self._named is None and self._next < len(self._values):
            raise TypeError("not all arguments converted during string formatting")


def _converted(match: re.Match[str], given: _Arguments) -> str:
    kind = match["type"]
    if kind == "*" or match[0].endswith(".*"):
        raise LimitError("a format string with a variable width")
    room = _room(match["width"], match["precision"])
    value = given.take(match["key"])
    if kind == "s":
        value = to_text(value)
    elif kind == "r":
        value, kind = to_repr(value), "s"
    elif kind in _NUMERIC:
        if not isinstance(value, int | float):
            raise TypeError(f"%{kind} format: a number is required, not {type(value).__name__}")
        to_text(value)
        room += 1300
    elif kind != "c" or not isinstance(value, int | str):
        raise ValueError(f"unsupported format character {kind!r}")
    precision = "" if match["precision"] is None else f".{match['precision']}"
    text = value if isinstance(value, str) else ""
    make_text(len(text) + room, 4)
    return f"%{match['flags']}{match['width']}{precision}{kind}" % (value,)


def _room(*digits: str | None) -> int:
    """Characters that widths and precisions may add. Raises LimitError from 1000 on."""
    widths = [int(text) for text in digits if text]
    if any(wide >= 1000 for wide in widths):
        raise LimitError("a format string with a very large width or precision")
    return sum(widths)


def braces(pattern: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """`pattern.format(...)` with fields that name whole arguments."""
    _check_plain(pattern, "format")
    read(pattern)
    pieces, position, automatic = Pieces(), 0, 0
    for match in _BRACES.finditer(pattern):
        pieces.add(pattern[position : match.start()])
        position = match.end()
        if match[0] in ("{{", "}}"):
            pieces.add(match[0][0])
            continue
        field = _FIELD.fullmatch(match[0][1:-1]) if len(match[0]) > 1 else None
        if field is None:
            raise forbidden(f"the format field {pattern[match.start() :][:40]!r}")
        name = field[1] or str(automatic)
        automatic += not field[1]
        value = positional[int(name)] if name.isdecimal() else named[name]
        if field[2]:
            value = to_repr(value) if field[2] == "r" else to_text(value)
        pieces.add(_field(value, field[3] or ""))
    pieces.add(pattern[position:])
    return pieces.text()


def _field(value: Any, spec: str) -> str:
    text = to_text(value)
    if not spec:
        return text
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise forbidden(f"the format specification {spec[:40]!r}")
    if not isinstance(value, str | int | float):
        raise TypeError(f"unsupported format string passed to {type(value).__name__}.__format__")
    make_text(len(text) + 1300 + 4096 + _room(match[1], match[2]), 4)
    return format(value, spec)


def strftime_now(pattern: Any) -> str:
    """The global: the local time as a pattern says."""
    text = to_text(pattern)
    if len(text) > MAX_TIME or _TIME.search(text):
        raise LimitError("a time format that is very long or has a width")
    spend(len(text))
    make_text(len(text) * _DIRECTIVES, 4)
    return datetime.now().strftime(text)


def _check_plain(pattern: str, what: str) -> None:
    if isinstance(pattern, Markup):
        raise forbidden(f"{what} of a text that is marked safe")
