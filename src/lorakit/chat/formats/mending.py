"""Mending calls that are nearly JSON: what small models slip on, where it is clear what was meant.

Each thing that is mended is said in words. What it takes beyond JSON: control characters in
strings, a comma before a closing bracket, Python's True, False, None and single quotes, braces
that are all written twice, a fence around it, a list of calls, and brackets that are missing at the
end. It makes up no keys and no values: what could mean two things stays unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from lorakit.chat.calls import MAX_DEPTH, BadCallError, Call, check_call
from lorakit.chat.formats.jsoncall import call_from, read_value

FENCE = "a fence around it was left out"
LIST = "a list of calls was taken as its calls"
CONTROL = "a control character in a string was kept as it is"
COMMA = "a comma before a closing bracket was left out"
LITERAL = "True, False or None of Python was read as JSON's"
QUOTES = "single quotes were read as double ones"
QUOTED = "quotation marks were read as the format's own"
BRACES = "braces written twice were read as one"
MISSING = "missing brackets were added at the end"
CLOSING = "the missing closing tag was added"

_FENCE = re.compile(r"```[\w+-]*\s*")
_SPACE = re.compile(r"[ \t\r\n]*")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_AS_DOUBLE = re.compile(r"""\\.|\"""", re.DOTALL)
_RAW = re.compile(r"""\\[^"']""", re.DOTALL)  # in Gemma's notation a backslash is one
_CONTROL = re.compile(r"[\x00-\x1f]")
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,1100}")
_BARE_KEY = re.compile(r"[^\s{}\[\]:,<>|\"]+")
_WORDS = {"true": True, "false": False, "null": None}
_OF_PYTHON = {"True": True, "False": False, "None": None}
_LEVELS = MAX_DEPTH + 3  # of the arguments, their call, and lists of calls


def mend_calls(
    body: str,
    keys: Sequence[str],
    *,
    required: bool,
    closed: bool,
    between: re.Pattern[str] | None = None,
) -> tuple[list[Call], list[str]]:
    """The calls of a text, which are JSON as of `read_call` or nearly so, and what was mended.

    keys and required: as of `read_call`. closed: whether a closing tag stood behind the text, so
    that nothing was to follow; otherwise brackets are added only behind whole arguments. between:
    what may stand before, between and behind several calls. Raises BadCallError.
    """
    reader = Mending(body, closed=closed)
    calls: list[Call] = []
    position = reader.begin(between)
    while True:
        position, value = reader.value(position)
        if isinstance(value, list) and value:
            reader.did(LIST)
        items = value if isinstance(value, list) and value else [value]
        calls += [call_from(item, keys, position, required=required) for item in items]
        last, outer = items[-1], len(items) > 1 or items[-1] is not value
        if reader.added > 1 + outer or (
            reader.added > outer and not any(key in last for key in keys)
        ):
            reader.need_closed(position)
        position = reader.skip(position, between)
        if position == len(reader.text):
            return calls, reader.done
        if between is None:
            raise BadCallError("more follows the call", position)


def mend_arguments(
    body: str, *, closed: bool, escape: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The arguments of a call whose name stands before them, and what was mended.

    closed: as of `mend_calls`. escape: what stands on both sides of strings in Gemma's notation,
    whose keys are bare. Raises BadCallError.
    """
    reader = Mending(body, closed=closed, escape=escape)
    position, value = reader.value(reader.begin(None))
    if reader.added:
        reader.need_closed(position)
    position = reader.skip(position, None)
    if position < len(reader.text):
        raise BadCallError("more follows the arguments", position)
    if not isinstance(value, dict):
        raise BadCallError("the arguments must be an object", position)
    check_call("", value, position)
    return value, reader.done


class Mending:
    """Recursive descent over one text; every character is looked at a bounded number of times.

    done: what was mended, in words, each once. added: how many brackets were missing at the end.
    """

    def __init__(self, text: str, *, closed: bool, escape: str = "") -> None:
        self.text = text.strip()
        self.done: list[str] = []
        self.added = 0
        self._closed, self._escape = closed, escape

    def did(self, words: str) -> None:
        """Note what was mended."""
        if words not in self.done:
            self.done.append(words)

    def begin(self, between: re.Pattern[str] | None) -> int:
        """Where the first value begins, without a fence around all of it."""
        if fence := _FENCE.match(self.text):
            inside = self.text[fence.end() :].removesuffix("```").rstrip()
            self.text = inside
            self.did(FENCE)
        return self.skip(0, between)

    def skip(self, position: int, between: re.Pattern[str] | None) -> int:
        """Behind white space and what may stand between two calls."""
        found = (between or _SPACE).match(self.text, position)
        return found.end() if found else position

    def need_closed(self, position: int) -> None:
        """Refuse brackets that were added where more may have been to come."""
        if not self._closed:
            raise BadCallError("it ends before its arguments do", position)

    def value(self, position: int, depth: int = 0) -> tuple[int, Any]:
        """The value at a position and its end. Raises BadCallError."""
        if depth > _LEVELS:
            raise BadCallError(f"nested deeper than {MAX_DEPTH} levels", position)
        char = self.text[position : position + 1]
        if char == "{":
            return self._object(position, depth)
        if char == "[":
            return self._array(position, depth)
        if self._begins_string(position):
            return self._string(position)
        return self._word(position)

    def _object(self, position: int, depth: int) -> tuple[int, dict[str, Any]]:
        twice = self.text.startswith("{{", position)
        closing = "}}" if twice else "}"
        if twice:
            self.did(BRACES)
        found: dict[str, Any] = {}
        position = self._space(position + len(closing))
        while (end := self._end(position, closing, bool(found))) < 0:
            position, key = self._key(position)
            if key in found:
                raise BadCallError("a key occurs twice", position)
            position = self._space(position)
            if not self.text.startswith(":", position):
                raise BadCallError("expected ':' after a key", position)
            position, found[key] = self.value(self._space(position + 1), depth + 1)
            position = self._comma(position, closing)
        return end, found

    def _array(self, position: int, depth: int) -> tuple[int, list[Any]]:
        found: list[Any] = []
        position = self._space(position + 1)
        while (end := self._end(position, "]", bool(found))) < 0:
            position, item = self.value(position, depth + 1)
            found.append(item)
            position = self._comma(position, "]")
        return end, found

    def _end(self, position: int, closing: str, filled: bool) -> int:
        """Behind a closing bracket, which may be missing at the end of the text; else -1."""
        if self.text.startswith(closing, position):
            return position + len(closing)
        if position < len(self.text) or not filled:
            return -1
        self.added += 1
        self.did(MISSING)
        return position

    def _comma(self, position: int, closing: str) -> int:
        """Behind the comma after an item, if another follows; else before what closes."""
        position = self._space(position)
        if not self.text.startswith(",", position):
            if position < len(self.text) and not self.text.startswith(closing, position):
                raise BadCallError(f"expected ',' or '{closing}'", position)
            return position
        position = self._space(position + 1)
        if position == len(self.text) or self.text.startswith(closing, position):
            self.did(COMMA)
        return position

    def _begins_string(self, position: int) -> bool:
        begins = ('"', "'", self._escape) if self._escape else ('"', "'")
        return self.text.startswith(begins, position)

    def _key(self, position: int) -> tuple[int, str]:
        bare = _BARE_KEY.match(self.text, position) if self._escape else None
        if bare and not self._begins_string(position):
            return bare.end(), bare[0]
        return self._string(position)

    def _string(self, position: int) -> tuple[int, str]:
        if self._escape and self.text.startswith(self._escape, position):
            begin = position + len(self._escape)
            end = self.text.find(self._escape, begin)
            if end < 0:
                raise BadCallError("expected a whole string", position)
            return end + len(self._escape), self.text[begin:end]
        if self._escape:
            self.did(QUOTED)
        single = self.text.startswith("'", position)
        found = (_SINGLE if single else _DOUBLE).match(self.text, position)
        if not found:
            raise BadCallError("expected a whole string", position)
        inside = found[1]
        if self._escape and _RAW.search(inside):
            raise BadCallError("a backslash that may be one or an escape", position)
        if single and "\\/" in inside.replace("\\\\", ""):
            raise BadCallError("an escape that means two things", position)
        if single:
            self.did(QUOTES)
            inside = _AS_DOUBLE.sub(_in_double, inside)
        if _CONTROL.search(inside):
            self.did(CONTROL)
        try:
            return found.end(), str(json.loads(f'"{inside}"', strict=False))
        except ValueError as error:
            raise BadCallError("an escape that is not JSON's", position) from error

    def _word(self, position: int) -> tuple[int, Any]:
        word = _WORD.match(self.text, position)
        if not word:
            raise BadCallError("expected a value", position)
        if word.end() == len(self.text):  # more of it may have been to come
            self.need_closed(position)
        if word[0] in _WORDS:
            return word.end(), _WORDS[word[0]]
        if word[0] in _OF_PYTHON:
            if not self._escape:  # where templates print them
                self.did(LITERAL)
            return word.end(), _OF_PYTHON[word[0]]
        end, value = read_value(word[0], 0)
        if end < len(word[0]) or isinstance(value, bool) or value is None:
            raise BadCallError("expected a value", position)
        return word.end(), value

    def _space(self, position: int) -> int:
        return self.skip(position, None)


def _in_double(found: re.Match[str]) -> str:
    """A part of a text in single quotes as it stands between double ones."""
    if found[0] == '"':
        return '\\"'
    return "'" if found[0] == "\\'" else found[0]
