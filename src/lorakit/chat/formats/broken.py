"""How far a value goes that cannot be read, past the strings in it.

A model that slips in one place of a call (a raw line break, a single quote, True) has usually
quoted the rest as it should. What begins like a call within such a string, such as a text that the
user gave, must not become one.
"""

from __future__ import annotations

import re

_SPACE = re.compile(r"[ \t\r\n]+")
_FENCE = re.compile(r"```[\w+-]*")
_WORD = re.compile(r"[^\s{}\[\],:\"'<>|`]+")
_STRINGS = {
    '"': re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL),
    "'": re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL),
}


def past(text: str, position: int, escape: str = "") -> int:
    """Where the value that begins at a position ends, or what can be no part of one follows.

    escape: what stands on both sides of strings in Gemma's notation. A string that does not end
    goes on to the end of the text. Takes time linear in what it passes.
    """
    if fence := _FENCE.match(text, position):
        position = fence.end()
    depth, due = 0, True  # whether a value or a key is due
    while position < len(text):
        char = text[position]
        if space := _SPACE.match(text, position):
            position = space.end()
        elif char in ",:":
            position, due = position + 1, True
        elif char in "}]":
            position, due, depth = position + 1, False, depth - 1
            if depth <= 0:
                return position
        elif not due:
            return position
        elif char in "{[":
            position, depth = position + 1, depth + 1
        else:
            end, due = _end_of_scalar(text, position, escape), False
            if end < 0:
                return position
            position = end
    return position


def _end_of_scalar(text: str, position: int, escape: str) -> int:
    """Where a string or a word ends; -1 where there is none."""
    if escape and text.startswith(escape, position):
        end = text.find(escape, position + len(escape))
        return len(text) if end < 0 else end + len(escape)
    if string := _STRINGS.get(text[position]):
        found = string.match(text, position)
        return found.end() if found else len(text)
    word = _WORD.match(text, position)
    return word.end() if word else -1
