"""Telling: name and arguments of a call while it is written, before it can be read as a whole.

It looks for what a format's Growing says, and at nothing else: whether the text is a call in the
end is found out by the format's own reading.
"""

from __future__ import annotations

import json
from enum import Enum, auto

from lorakit.chat.arguments import ArgumentsReader, Growing
from lorakit.chat.saying import Saying

HEAD = 512  # characters within which a name, and then its arguments, have to begin


class _Awaits(Enum):
    NAME = auto()
    ARGUMENTS = auto()  # their beginning
    MORE = auto()  # of the arguments
    END = auto()  # of the call
    NOTHING = auto()  # what there is does not look like a call


class Telling:
    """The calls of one reading, one after the other. In time linear in the text."""

    def __init__(self, growing: Growing | None, said: Saying) -> None:
        self._growing, self._said = growing, said
        self._awaits = _Awaits.NAME if growing else _Awaits.NOTHING
        self._offset = 0  # from where the reading began to where the text goes on
        self._name = ""
        self._reader: ArgumentsReader | None = None

    def tell(self, text: str, start: int) -> None:
        """Tell what more of the text says of the call. start: where the reading began in it."""
        if self._growing is None:
            return
        if self._awaits is _Awaits.NAME:
            self._tell_name(self._growing, text, start)
        if self._awaits is _Awaits.ARGUMENTS:
            self._find_arguments(self._growing, text, start)
        if self._awaits is _Awaits.MORE:
            self._tell_arguments(text, start)

    def next(self) -> None:
        """Another call may follow the one that is whole."""
        ended = self._awaits is _Awaits.END
        self._awaits = _Awaits.NAME if ended else _Awaits.NOTHING

    def _tell_name(self, growing: Growing, text: str, start: int) -> None:
        at = start + self._offset
        found = growing.name.match(text, at, at + HEAD)
        if found:
            name = _unquoted(found["name"]) if growing.quoted else found["name"]
            if name:
                self._name = name
                self._said.begin_call(name)
                self._go(_Awaits.ARGUMENTS, found.end() - start)
                return
        if found or len(text) - at >= HEAD:
            self._awaits = _Awaits.NOTHING

    def _find_arguments(self, growing: Growing, text: str, start: int) -> None:
        at = start + self._offset
        found = growing.arguments.match(text, at, at + HEAD)
        if found:
            self._reader = growing.reader(self._name)
            self._go(_Awaits.MORE, found.end() - start)
        elif len(text) - at >= HEAD:
            self._awaits = _Awaits.NOTHING

    def _tell_arguments(self, text: str, start: int) -> None:
        assert self._reader is not None
        end, said, ended = self._reader.read(text, start + self._offset)
        self._said.add_arguments(said)
        self._go(_Awaits.END if ended else _Awaits.MORE, end - start)

    def _go(self, awaits: _Awaits, offset: int) -> None:
        self._awaits, self._offset = awaits, offset


def _unquoted(inside: str) -> str:
    """The text of a JSON string of which this is the inside; "" where it is none."""
    try:
        return str(json.loads(f'"{inside}"'))
    except ValueError:
        return ""
