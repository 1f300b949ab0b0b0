"""The arguments of a call that is still being written, as JSON text that grows.

It knows nothing of replies: a reader is given text and a position again and again, while the text
grows, and says how far it has read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_IN_STRING = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
_OUTSIDE = re.compile(r'[^"{}\[\]]*')


class ArgumentsReader(Protocol):
    """What reads the arguments of one call.

    All that it gave, joined, is JSON text of the arguments where the call turns out to be one. It
    looks at each character a bounded number of times, however small the pieces are.
    """

    def read(self, text: str, position: int) -> tuple[int, str, bool]:
        """Read on from a position: how far it read (from where it is asked next), the JSON text of
        that, and whether the arguments ended there. It may stay where it is until more is there."""
        ...


class JsonArguments:
    """Arguments that are written as a JSON object: they are given as they are."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False

    def read(self, text: str, position: int) -> tuple[int, str, bool]:
        at = position
        while at < len(text):
            found = (_IN_STRING if self._in_string else _OUTSIDE).match(text, at)
            at = found.end() if found else at
            if at == len(text):
                break
            if text[at] == "\\":  # what it escapes is not there yet
                break
            at += 1
            if text[at - 1] == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if text[at - 1] in "{[" else -1
            if self._depth <= 0 and not self._in_string:
                return at, text[position:at], True
        return at, text[position:at], False


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    """How a call of a format is told while it is written, for its name and its arguments.

    name: matched where reading of calls begins, and again where the arguments of one ended (for
    further calls that `read` of the same CallSyntax takes in); its group "name" is the function's.
    arguments: matched right behind that; its end is where `reader` begins.
    quoted: whether the name is the inside of a JSON string, with its escapes.
    reader: makes what reads the arguments of one call of a function of this name.

    Both patterns look at text that grows: more text must not change what they match, so each ends
    with what cannot go on, such as a quotation mark, or (?=\\{) after white space. A call that they
    do not fit is none the worse for it: it is told as a whole at its end.
    """

    name: re.Pattern[str]
    arguments: re.Pattern[str]
    quoted: bool = False
    reader: Callable[[str], ArgumentsReader] = lambda _: JsonArguments()
