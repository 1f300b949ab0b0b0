"""Values written as text: as Python's str and repr have it, and as JSON.

Both writers go through the value themselves and draw for every piece before it is made, so that a
value that holds shared parts costs what it expands to, up to the limits and no further.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from jinja2.runtime import Undefined

from lorakit.chat.sandbox.budget import (
    MAX_VALUE,
    OBJECT,
    LimitError,
    Views,
    allocate,
    check_depth,
    check_integer,
    check_size,
    made,
    make_text,
    release,
    spend,
    width,
)
from lorakit.chat.sandbox.listed import forbidden

MAX_INDENT = 100  # characters
_SCALARS = (type(None), bool, int, float)
_REPR_GROWTH = {1: 4, 2: 6, 4: 10}  # characters of an escape, by the width of what it stands for
_JSON_GROWTH = 12  # \ud83d\ude00
_PIECE = 4  # steps for a piece, most of which are one walked value
_CHUNK = 1 << 16  # characters of a text escaped at a time
_PLAIN = json.encoder.ESCAPE  # what JSON must escape where it may keep other scripts


class Pieces:
    """A text in the making: drawn for piece by piece, and once more as a whole."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length, self._width, self._drawn = 0, 1, 0

    def add(self, piece: str) -> None:
        self._length += len(piece)
        check_size(self._length)
        wide = width(piece)
        self._width = max(self._width, wide)
        spend(_PIECE + (len(piece) >> 6))
        size = OBJECT + len(piece) * wide
        allocate(size)
        self._drawn += size
        self._pieces.append(piece)

    def text(self) -> str:
        make_text(self._length, self._width)
        release(self._drawn)
        return "".join(self._pieces)


def to_text(value: Any) -> str:
    """`str(value)` of what has a text. Raises ForbiddenError for macros, namespaces and the like,
    whose text would be an address."""
    if isinstance(value, str):
        return value
    if isinstance(value, _SCALARS):
        return _scalar(value)
    if isinstance(value, Undefined):
        return str(value)
    return to_repr(value)


def to_repr(value: Any) -> str:
    """`repr(value)`, which is also the str of lists and the like."""
    pieces = Pieces()
    _represent(value, pieces, 0)
    return pieces.text()


def _scalar(value: Any) -> str:
    spend(1)
    if isinstance(value, int):
        check_integer(value.bit_length())
        allocate(2 * OBJECT + (value.bit_length() >> 1))
    return str(value)


def _represent(value: Any, out: Pieces, depth: int) -> None:
    check_depth(depth)
    if isinstance(value, str):
        out.add(_quoted(value))
    elif isinstance(value, _SCALARS):
        out.add(_scalar(value))
    elif isinstance(value, Undefined | range):
        out.add(repr(value))
    elif isinstance(value, dict):
        _between("{", ((key, item) for key, item in value.items()), "}", out, depth, _pair)
    elif isinstance(value, list):
        _between("[", value, "]", out, depth, _represent)
    elif isinstance(value, tuple):
        _between("(", value, ",)" if len(value) == 1 else ")", out, depth, _represent)
    elif isinstance(value, Views):
        _between(f"{type(value).__name__}([", value, "])", out, depth, _represent)
    else:
        raise forbidden(f"the text of a {type(value).__name__}")


def _between(
    start: str,
    items: Iterable[Any],
    end: str,
    out: Pieces,
    depth: int,
    write: Callable[[Any, Pieces, int], None],
) -> None:
    separator = start
    for item in items:
        out.add(separator)
        write(item, out, depth + 1)
        separator = ", "
    out.add(end if separator == ", " else start + end)


def _pair(pair: tuple[Any, Any], out: Pieces, depth: int) -> None:
    _represent(pair[0], out, depth)
    out.add(": ")
    _represent(pair[1], out, depth)


def _quoted(text: str) -> str:
    wide = width(text)
    growth = _REPR_GROWTH[wide]
    if len(text) * growth + 2 > MAX_VALUE:
        raise LimitError(f"a text of {len(text)} characters within a list or object to be written")
    return made(make_text(len(text) * growth + 8, wide), repr(text))


class JsonWriter:
    """`json.dumps` with the options that transformers gives templates, and nothing escaped for
    HTML."""

    def __init__(
        self,
        ensure_ascii: Any = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: Any = False,
    ) -> None:
        self._ascii, self._sort = bool(ensure_ascii), bool(sort_keys)
        self._indent = _indentation(indent)
        self._item, self._colon = _separators(separators, self._indent is not None)
        self._out = Pieces()

    def write(self, value: Any) -> str:
        """The JSON text of a value. Raises TypeError for what JSON has no word for."""
        self._value(value, 0)
        return self._out.text()

    def _value(self, value: Any, depth: int) -> None:
        check_depth(depth)
        if isinstance(value, str):
            self._string(value)
        elif isinstance(value, _SCALARS):
            self._out.add(_json_scalar(value))
        elif isinstance(value, dict):
            self._object(value, depth)
        elif isinstance(value, list | tuple):
            self._array(value, depth)
        else:
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

    def _string(self, text: str) -> None:
        """In chunks, since how much a text grows is known only afterwards."""
        escape = json.encoder.encode_basestring_ascii if self._ascii else _escape
        self._out.add('"')
        for start in range(0, len(text), _CHUNK):
            chunk = text[start : start + _CHUNK]
            drawn = make_text(len(chunk) * _JSON_GROWTH, width(chunk))
            escaped = escape(chunk)[1:-1]
            release(drawn)
            self._out.add(escaped)
        self._out.add('"')

    def _array(self, items: list[Any] | tuple[Any, ...], depth: int) -> None:
        if not items:
            self._out.add("[]")
            return
        self._out.add("[" + self._line(depth + 1))
        for index, item in enumerate(items):
            if index:
                self._out.add(self._item + self._line(depth + 1))
            self._value(item, depth + 1)
        self._out.add(self._line(depth) + "]")

    def _object(self, value: dict[Any, Any], depth: int) -> None:
        if not value:
            self._out.add("{}")
            return
        self._out.add("{" + self._line(depth + 1))
        for index, (key, item) in enumerate(self._members(value)):
            if index:
                self._out.add(self._item + self._line(depth + 1))
            self._string(key if isinstance(key, str) else _json_key(key))
            self._out.add(self._colon)
            self._value(item, depth + 1)
        self._out.add(self._line(depth) + "}")

    def _members(self, value: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
        if not self._sort:
            return value.items()
        spend(1 + len(value) * 2 * len(value).bit_length())
        spend(sum(len(key) >> 6 for key in value if isinstance(key, str)))
        return sorted(value.items(), key=lambda pair: pair[0])

    def _line(self, depth: int) -> str:
        return "" if self._indent is None else "\n" + self._indent * depth


def _escape(text: str) -> str:
    return json.encoder.encode_basestring(text) if _PLAIN.search(text) else f'"{text}"'


def _json_scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _scalar(value) if isinstance(value, int) else json.dumps(value)


def _json_key(key: Any) -> str:
    if isinstance(key, _SCALARS):
        return _json_scalar(key)
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _indentation(indent: Any) -> str | None:
    if indent is None:
        return None
    if isinstance(indent, int):
        if indent > MAX_INDENT:
            raise LimitError(f"tojson with an indent of {indent} characters")
        return " " * indent
    if not isinstance(indent, str):
        raise TypeError(f"an indent is a number or a text, not {type(indent).__name__}")
    if len(indent) > MAX_INDENT:
        raise LimitError(f"tojson with an indent of {len(indent)} characters")
    return str(indent)


def _separators(given: Any, indented: bool) -> tuple[str, str]:
    if given is None:
        return ("," if indented else ", "), ": "
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise TypeError("separators are two texts")
    for text in given:
        if not isinstance(text, str):
            raise TypeError("separators are two texts")
        if len(text) > MAX_INDENT:
            raise LimitError(f"tojson with a separator of {len(text)} characters")
    return str(given[0]), str(given[1])
