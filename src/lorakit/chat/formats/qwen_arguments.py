"""Parameters between Qwen's tags while they are written: the JSON text that they come to.

The text is what `json.dumps` makes of the arguments that the whole call has in the end. A parameter
is given once it has ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from lorakit.chat.formats.qwenrules import NAME

NOTHING = object()
HEAD = 512  # characters in which a parameter has to begin
_CLOSE = "</parameter>"
_HEAD = re.compile(rf"\s*(?:<parameter=(?P<key>{NAME.pattern})>|</function>)")


class QwenArguments:
    """See lorakit.chat.arguments.ArgumentsReader."""

    def __init__(self, value: Callable[[str, str], Any]) -> None:
        """value: what a parameter of this name is whose tags have this between them; NOTHING where
        a later tag may be the one that closes it."""
        self._value = value
        self._keys: set[str] = set()
        self._looked = 0  # characters from where it stands that hold no closing tag
        self._stuck = False

    def read(self, text: str, position: int) -> tuple[int, str, bool]:
        said: list[str] = []
        while True:
            end, more, ended = self._next(text, position)
            said.append(more)
            if ended or end == position:
                return end, "".join(said), ended
            position = end

    def _next(self, text: str, position: int) -> tuple[int, str, bool]:
        """The next parameter, or the end of all."""
        head = _HEAD.match(text, position, position + HEAD)
        if self._stuck or not head:
            return position, "", False
        if head["key"] is None:
            return head.end(), "}" if self._keys else "{}", True
        close = text.find(_CLOSE, max(head.end(), position + self._looked))
        if close < 0:
            self._looked = max(0, len(text) - len(_CLOSE) + 1 - position)
            return position, "", False
        value = self._value(head["key"], text[head.end() : close])
        self._stuck = value is NOTHING or head["key"] in self._keys
        if self._stuck:
            return position, "", False
        begin = ", " if self._keys else "{"
        self._keys.add(head["key"])
        self._looked = 0
        return close + len(_CLOSE), f"{begin}{_json(head['key'])}: {_json(value)}", False


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
