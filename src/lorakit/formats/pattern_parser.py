"""Regular expressions of adapters' configs as trees: the subset of Python's `re` that is taken.

Only whole matches are asked for, so that greedy and lazy quantifiers mean the same. Look-behind,
back-references and flags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAX_DEPTH = 64  # nested groups

_COUNT = re.compile(r"\{(\d{0,4})(?:(,)(\d{0,4}))?\}", re.ASCII)
_NAMED = re.compile(r"P<[^\W\d]\w*>")


def is_word(char: str) -> bool:
    """Whether it is of \\w."""
    return char.isalnum() or char == "_"


_CLASSES: dict[str, Callable[[str], bool]] = {"d": str.isdecimal, "w": is_word, "s": str.isspace}

Test = Callable[[str], bool]
Anchor = Literal["^", "$", "b"]


@dataclass(frozen=True, slots=True)
class Repeat:
    node: Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Sequenced:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """(?=...) or (?!...): whether what follows here begins so, or does not."""

    node: Node
    negative: bool


Node = Test | Anchor | Repeat | Sequenced | Either | Look


class PatternError(ValueError):
    """A pattern that is not a regular expression, or beyond the subset or its bounds."""


class UnknownSyntaxError(PatternError):
    """A pattern that may be a regular expression, but is none of the subset."""


def parse(pattern: str) -> Node:
    """The tree of a pattern. Raises PatternError, and UnknownSyntaxError for what is beyond it."""
    return _Parser(pattern).parse()


class _Parser:
    """Recursive descent from the text of a pattern to a tree."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        tree = self._alternatives()
        if self._at < len(self._text):
            raise PatternError("unbalanced parenthesis")
        return tree

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return Either(tuple(options)) if len(options) > 1 else options[0]

    def _sequence(self) -> Node:
        nodes = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            nodes.append(self._repeated(self._atom()))
        return Sequenced(tuple(nodes))

    def _repeated(self, node: Node) -> Node:
        char = self._text[self._at : self._at + 1]
        count = _COUNT.match(self._text, self._at)
        if char in ("*", "+", "?"):
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
            self._at += 1
        elif count and count[0] != "{}":
            low = int(count[1] or 0)
            high = (int(count[3]) if count[3] else None) if count[2] else low
            self._at = count.end()
        else:
            return node
        if high is not None and low > high:
            raise PatternError("a repetition from more to less")
        self._take("?")  # lazy: the same whole matches
        if self._text[self._at : self._at + 1] in ("*", "+", "?"):
            raise UnknownSyntaxError("multiple or possessive quantifiers")
        return Sequenced(()) if high == 0 else Repeat(node, low, high)

    def _atom(self) -> Node:
        char = self._next()
        if char == "(":
            return self._group()
        if char in "*+?":
            raise PatternError("nothing to repeat")
        if char == "^":
            return "^"
        if char == "$":
            return "$"
        if char == ".":
            return lambda c: c != "\n"
        if char == "[":
            return self._set()
        if char == "\\":
            return self._escaped()
        return _one(char)

    def _escaped(self) -> Node:
        char = self._next()
        anchors: dict[str, Anchor] = {"A": "^", "Z": "$", "b": "b"}
        return anchors[char] if char in anchors else _escape(char)

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError("groups are nested too deeply")
        ahead = None
        if self._take("?") and not self._take(":"):
            ahead = next((sign for sign in "!=" if self._take(sign)), None)
            name = None if ahead else _NAMED.match(self._text, self._at)
            if name is not None:
                self._at = name.end()
            elif ahead is None:
                raise UnknownSyntaxError("look-behind, flags and back-references are not supported")
        tree = self._alternatives()
        if not self._take(")"):
            raise PatternError("missing )")
        self._depth -= 1
        return tree if ahead is None else Look(tree, ahead == "!")

    def _set(self) -> Test:
        negated = self._take("^")
        tests = [self._set_item()]
        while not self._take("]"):
            tests.append(self._set_item())
        return lambda c: any(test(c) for test in tests) is not negated

    def _set_item(self) -> Test:
        low = self._set_char()
        rest = self._text[self._at : self._at + 2]
        if callable(low) or len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return low if callable(low) else _one(low)
        self._at += 1
        high = self._set_char()
        if callable(high) or high < low:
            raise PatternError("a bad character range")
        return lambda c: low <= c <= high

    def _set_char(self) -> str | Test:
        char = self._next()
        if char != "\\":
            return char
        char = self._next()
        test = _escape(char)
        return test if char.lower() in _CLASSES else char

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise PatternError("the pattern ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _take(self, char: str) -> bool:
        if self._text[self._at : self._at + 1] != char:
            return False
        self._at += 1
        return True


def _one(char: str) -> Test:
    return lambda c: c == char


def _escape(char: str) -> Test:
    if char.lower() in _CLASSES:
        test, negated = _CLASSES[char.lower()], char.isupper()
        return lambda c: test(c) is not negated
    if char.isalnum():
        raise UnknownSyntaxError(f"the escape \\{char} is not supported")
    return _one(char)
