"""What a walk over a schema has found so far: its faults, and its size against the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from lorakit.chat.constraints.nodes import Json
from lorakit.values import shown

MAX_DEPTH = 64
MAX_NODES = 20_000  # schemas, names and constants
MAX_TEXT = 1 << 20  # characters of all names, constants and patterns
MAX_FAULTS = 200
MAX_DIGITS = 15  # of a number with decimals: more may come out as a neighbour
MAX_EXPONENT = 22


class TooLargeError(Exception):
    """The schema is larger than any that is enforced."""


class Tally:
    """Faults and sizes of one walk. where: what the whole is called."""

    def __init__(self, where: str) -> None:
        self.faults: list[str] = []
        self._where = where
        self._nodes = self._characters = 0

    def count(self, nodes: int, characters: int = 0) -> None:
        """Raises TooLargeError."""
        self._nodes += nodes
        self._characters += characters
        if self._nodes > MAX_NODES:
            raise TooLargeError(f"{self._where}: more than {MAX_NODES} schemas, names and values")
        if self._characters > MAX_TEXT:
            raise TooLargeError(f"{self._where}: more than {MAX_TEXT} characters")

    def fault(self, where: str, why: str) -> None:
        """Raises TooLargeError where there are too many."""
        if len(self.faults) >= MAX_FAULTS:
            raise TooLargeError("and more")
        self.faults.append(f"{where}: {why}")

    def constant(self, value: Any, where: str, depth: int) -> Json:
        """A value of a schema, checked and counted."""
        self.count(1)
        require_depth(depth, where)
        if isinstance(value, list):
            return [self.constant(item, where, depth + 1) for item in value]
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            for name in value:
                self.constant(name, where, depth + 1)
            return {name: self.constant(item, where, depth + 1) for name, item in value.items()}
        if isinstance(value, str):
            self.count(0, len(value))
        if not _is_plain(value):
            self.fault(where, f"expected a JSON value of at most 15 digits, found {shown(value)}")
            return None
        return value  # type: ignore[no-any-return]  # checked


def require_depth(depth: int, where: str) -> None:
    """Raise TooLargeError for what is nested too deep."""
    if depth > MAX_DEPTH:
        raise TooLargeError(f"{where}: more than {MAX_DEPTH} levels")


def pointed(root: object, pointer: str) -> tuple[bool, object]:
    """What a JSON pointer names, and whether it names anything (RFC 6901, as a URI's fragment)."""
    target = root
    path = pointer[1:]
    if path and not path.startswith("/"):
        return False, None
    for part in path.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and name in target:
            target = target[name]
        elif isinstance(target, list) and _is_index(name) and int(name) < len(target):
            target = target[int(name)]
        else:
            return False, None
    return True, target


def step(name: str) -> str:
    """A property's place within its object's."""
    return f".{name}" if name.isidentifier() else f"[{shown(name)}]"


def is_text(text: str) -> bool:
    """Whether UTF-8 can say it."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def is_short(value: float) -> bool:
    """Whether a number is finite, and short enough for llguidance to read it exactly."""
    if not math.isfinite(value):
        return False
    number = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(number.exponent, int)
    return len(number.digits) <= MAX_DIGITS and abs(number.exponent) <= MAX_EXPONENT


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 6


def _is_plain(value: object) -> bool:
    """Whether it is a JSON value without others in it."""
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, float):
        return is_short(value)
    return value is None or (isinstance(value, int) and abs(value) < 1 << 63)
