"""Arguments in Gemma's notation while they are written: the JSON text that they come to.

The text is what `json.dumps` makes of the arguments that the whole call has in the end. A word is
given once it has ended, a string as it comes.
"""

from __future__ import annotations

import json
import re

from lorakit.chat.unfinished import held

_SPACE = re.compile(r"[ \t\r\n]*")
_BARE = re.compile(r"[^\s{}\[\]:,<>|\"]{1,256}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "None": "null"}
_CONSTANTS |= {"True": "true", "False": "false"}
_PUNCTUATION = {",": ", ", ":": ": "}


class GemmaArguments:
    """See lorakit.chat.arguments.ArgumentsReader. What is none of the notation it leaves alone:
    then it stays where that begins."""

    def __init__(self, escape: str) -> None:
        """escape: what stands before and behind a string."""
        self._escape = escape
        self._open: list[str] = []  # brackets
        self._in_string = self._in_key = False

    def read(self, text: str, position: int) -> tuple[int, str, bool]:
        said: list[str] = []
        while True:
            position, more = self._next(text, position)
            if not more:
                return position, "".join(said), False
            said.append(more)
            if not self._open:
                return position, "".join(said), True

    def _next(self, text: str, position: int) -> tuple[int, str]:
        """The JSON text of the next part, and where that ends; "" where there is none yet."""
        if self._in_string:
            return self._string(text, position)
        space = _SPACE.match(text, position)
        position = space.end() if space else position
        char = text[position : position + 1]
        if text.startswith(self._escape, position):
            self._in_string = True
            return position + len(self._escape), '"'
        if not char or self._escape.startswith(text[position : position + len(self._escape)]):
            return position, ""
        if char in "{}[]":
            self._bracket(char)
            return position + 1, char
        if char in _PUNCTUATION:
            self._in_key = char == "," and self._open[-1] == "{"
            return position + 1, _PUNCTUATION[char]
        return self._word(text, position)

    def _bracket(self, char: str) -> None:
        if char in "{[":
            self._open.append(char)
        elif self._open:
            self._open.pop()
        self._in_key = char == "{"

    def _string(self, text: str, position: int) -> tuple[int, str]:
        end = text.find(self._escape, position)
        if end >= 0:
            self._in_string = False
            return end + len(self._escape), _inside(text[position:end]) + '"'
        end = max(position, len(text) - held(text[-len(self._escape) :], (self._escape,)))
        return end, _inside(text[position:end])

    def _word(self, text: str, position: int) -> tuple[int, str]:
        word = _BARE.match(text, position)
        if not word or word.end() == len(text):
            return position, ""
        said = json.dumps(word[0], ensure_ascii=False) if self._in_key else _value(word[0])
        return (word.end() if said else position), said


def _inside(text: str) -> str:
    """A part of a string as it stands in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _value(word: str) -> str:
    """A bare value as JSON; "" for what is none."""
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    number = _NUMBER.fullmatch(word)
    if not number:
        return ""
    return json.dumps(float(word) if number[1] or number[2] else int(word))
