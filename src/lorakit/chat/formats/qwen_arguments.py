"""Arguments in Qwen 3 Coder's tags while they are written: the JSON text that they come to.

A parameter that can only be a text is given as it comes, any other once its closing tag is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from lorakit.chat.formats.qwenrules import NAME, Kind, is_like_others
from lorakit.chat.unfinished import held

_END = "</parameter>"
_ENDS = (_END, f"\n{_END}")
_PARAMETER = re.compile(rf"[ \t\r\n]*<parameter=({NAME.pattern})>(\n?)")
_LAST = re.compile(r"[ \t\r\n]*</function>")


class QwenArguments:
    """See lorakit.chat.arguments.ArgumentsReader."""

    def __init__(
        self,
        kind: Callable[[str], Kind | None],
        value: Callable[[str, int, Kind | None], tuple[int, Any]],
    ) -> None:
        """kind: of the function's parameter of this name. value: the value whose opening tag ends
        at a position, and where its closing tag ends."""
        self._kind_of, self._value_of = kind, value
        self._kind: Kind | None = None
        self._within = False  # a parameter
        self._unsure = False  # which of several closing tags closes it
        self._first = True
        self._looked = 0  # characters behind the position in which no closing tag begins

    def read(self, text: str, position: int) -> tuple[int, str, bool]:
        said: list[str] = []
        while True:
            before = position
            position, more, ended = self._next(text, position)
            said.append(more)
            if ended or position == before:
                return position, "".join(said), ended

    def _next(self, text: str, position: int) -> tuple[int, str, bool]:
        if self._within:
            read = self._text if self._kind == "text" else self._value
            return (*read(text, position), False)
        if last := _LAST.match(text, position):
            return last.end(), "{}" if self._first else "}", True
        opening = _PARAMETER.match(text, position)
        if not opening or opening.end() == len(text):
            return position, "", False
        key = json.dumps(opening[1], ensure_ascii=False)
        said = f"{'{' if self._first else ', '}{key}: "
        self._first, self._within, self._looked = False, True, 0
        kind = self._kind_of(opening[1])
        self._kind = "text" if _is_text(text[opening.end()], kind) else kind
        if self._kind == "text":
            return opening.end(), f'{said}"', False
        return opening.start(2), said, False

    def _text(self, text: str, position: int) -> tuple[int, str]:
        end = text.find(_END, position)
        if end >= 0:
            self._within = False
            return end + len(_END), _inside(text[position:end].removesuffix("\n")) + '"'
        end = max(position, len(text) - held(text[-len(_END) - 1 :], _ENDS))
        return end, _inside(text[position:end])

    def _value(self, text: str, position: int) -> tuple[int, str]:
        close = -1 if self._unsure else text.find(_END, position + self._looked)
        if close < 0:
            self._looked = max(0, len(text) - position - len(_END) + 1)
            return position, ""
        if self._kind != "optional" and _may_go_on(text[position:close]):
            self._unsure = True
            return position, ""
        end, value = self._value_of(text, position, self._kind)
        self._within = False
        return end, json.dumps(value, ensure_ascii=False)


def _is_text(first: str, kind: Kind | None) -> bool:
    """Whether a value is a text, by what its parameter may be and its first character."""
    if kind == "text" or kind == "optional":
        return kind == "text" or first not in "nN"
    return not is_like_others(first)


def _may_go_on(text: str) -> bool:
    """Whether a text may be the beginning of JSON, one of whose strings holds the closing tag."""
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def _inside(text: str) -> str:
    """A part of a string as it stands in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
