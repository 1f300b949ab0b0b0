"""Regular expressions from untrusted files, matched in linear time.

An adapter's config may hold regular expressions, and Python's `re` can be made to run for years by
one. Here a pattern becomes a small automaton that is run without backtracking (Thompson 1968), with
a bound on its size and on the work of one table. Only whole matches are asked for, so that greedy
and lazy quantifiers mean the same. Look-around, back-references and flags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

MAX_LENGTH = 8192  # characters of one pattern
MAX_STATES = 20_000  # instructions of one automaton
MAX_WORK = 2_000_000  # instructions visited and names looked up for one file: about a second
COMPILING = 60  # what a character of a pattern costs
MAX_DEPTH = 64  # nested groups

_LITERAL = re.compile(r"[\w./ -]*", re.ASCII)
_COUNT = re.compile(r"\{(\d{0,4})(?:(,)(\d{0,4}))?\}", re.ASCII)
_NAMED = re.compile(r"P<[^\W\d]\w*>")


def _word(char: str) -> bool:
    return char.isalnum() or char == "_"


_CLASSES: dict[str, Callable[[str], bool]] = {"d": str.isdecimal, "w": _word, "s": str.isspace}

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


Node = Test | Anchor | Repeat | Sequenced | Either
# What to pass (a test of the next character, an anchor, or nothing) and where to go then.
Instruction = tuple[Test | Anchor | None, tuple[int, ...]]


class PatternError(ValueError):
    """A pattern that is not a regular expression, or beyond the subset or its bounds."""


@dataclass(slots=True)
class Budget:
    """Work that may still be spent; shared by the patterns of one file."""

    left: int = MAX_WORK

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise PatternError("matching the patterns takes too much work")


@dataclass(slots=True)
class Regex:
    """A compiled pattern. `fullmatch` costs time linear in the text."""

    program: list[Instruction]
    budget: Budget
    _steps: dict[tuple[frozenset[int], str, str], frozenset[int]] = field(default_factory=dict)

    @classmethod
    def compile(cls, pattern: str, budget: Budget | None = None) -> Regex:
        """Raises PatternError."""
        if len(pattern) > MAX_LENGTH:
            raise PatternError(f"a pattern of {len(pattern)} characters; {MAX_LENGTH} is the limit")
        budget = budget or Budget()
        budget.spend(COMPILING * len(pattern))
        program = _emit(_Parser(pattern).parse())
        budget.spend(len(program))
        return cls(program, budget)

    def fullmatch(self, text: str) -> bool:
        states, before = frozenset((0,)), ""
        for char in text:
            key = (states, before, char)
            if key not in self._steps:
                self._steps[key] = self._step(*key)
            states, before = self._steps[key], char
            if not states:
                return False
        return len(self.program) - 1 in self._close(states, before, "")

    def _step(self, states: frozenset[int], before: str, char: str) -> frozenset[int]:
        moved: set[int] = set()
        for state in self._close(states, before, char):
            test, after = self.program[state]
            if callable(test) and test(char):
                moved.update(after)
        return frozenset(moved)

    def _close(self, states: frozenset[int], before: str, after: str) -> set[int]:
        """All states that can be reached here, between two characters, without a character."""
        passed = {None, *_anchors(before, after)}
        seen, stack = set(states), list(states)
        while stack:
            test, following = self.program[stack.pop()]
            if not callable(test) and test in passed:
                fresh = [state for state in following if state not in seen]
                seen.update(fresh)
                stack.extend(fresh)
        self.budget.spend(len(seen))
        return seen


def _anchors(before: str, after: str) -> list[Anchor]:
    found: list[Anchor] = ["^"] if not before else []
    if not after:
        found.append("$")
    if bool(before and _word(before)) != bool(after and _word(after)):
        found.append("b")
    return found


class PatternTable:
    """PEFT's rule for its pattern dictionaries: ``(.*\\.)?(key)$`` on a name, first key wins.

    Most keys are plain names. A dot in one stands for any character, so that it matches the end of
    a name when that end, with dots put at the key's dots, is the key: one lookup finds them all.
    """

    def __init__(self, keys: Sequence[str], budget: Budget | None = None) -> None:
        """Raises PatternError for a key that is no regular expression, or beyond the bounds."""
        self._keys = keys
        self._budget = budget or Budget()
        self._plain: dict[_Outline, dict[str, int]] = {}
        self._regexes: list[tuple[int, Regex]] = []
        for index, key in enumerate(keys):
            plain = key.removeprefix("^")
            if _LITERAL.fullmatch(plain):
                dots = tuple(at for at, char in enumerate(plain) if char == ".")
                outline = (len(plain), dots, plain != key)
                self._plain.setdefault(outline, {}).setdefault(plain, index)
            else:
                regex = Regex.compile(rf"(.*\.)?({key})$", self._budget)
                self._regexes.append((index, regex))

    def first(self, name: str) -> str | None:
        """The first key that matches, or None. Raises PatternError at the end of the budget."""
        best = min(self._plain_hits(name), default=len(self._keys))
        for index, regex in self._regexes:
            if index < best and regex.fullmatch(name):
                best = index
        return self._keys[best] if best < len(self._keys) else None

    def _plain_hits(self, name: str) -> Iterator[int]:
        for (length, dots, whole), keys in self._plain.items():
            self._budget.spend(1 + len(dots))
            start = len(name) - length
            if start < 0 or (start and (whole or name[start - 1] != ".")):
                continue
            tail = list(name[start:])
            for at in dots:
                tail[at] = "."
            found = keys.get("".join(tail))
            if found is not None:
                yield found


_Outline = tuple[int, tuple[int, ...], bool]  # length, where the dots are, whether it is anchored


def _emit(tree: Node) -> list[Instruction]:
    """The automaton of a tree; its last instruction is the match."""
    code: list[Instruction] = []

    def put(test: Test | Anchor | None, *after: int) -> int:
        if len(code) >= MAX_STATES:
            raise PatternError("the pattern is too large")
        code.append((test, after))
        return len(code) - 1

    def join(at: int, *targets: int) -> None:
        code[at] = (code[at][0], code[at][1] + targets)

    def optional(node: Node) -> None:
        fork = put(None, len(code) + 1)
        add(node)
        join(fork, put(None, len(code) + 1))

    def add(node: Node) -> None:
        """Append a fragment that begins at the next instruction and ends before the one after."""
        if isinstance(node, Sequenced):
            put(None, len(code) + 1)  # so that even nothing, repeated, counts against the limit
            for part in node.nodes:
                add(part)
        elif isinstance(node, Either):
            fork = put(None)
            ends = []
            for part in node.nodes:
                join(fork, len(code))
                add(part)
                ends.append(put(None))
            for end in ends:
                join(end, len(code))
        elif isinstance(node, Repeat):
            for _ in range(node.low):
                add(node.node)
            for _ in range((node.high or node.low) - node.low):
                optional(node.node)
            if node.high is None:
                fork = put(None, len(code) + 1)
                add(node.node)
                put(None, fork)
                join(fork, len(code))
        else:
            put(node, len(code) + 1)

    add(tree)
    put(None)
    return code


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
            raise PatternError("multiple or possessive quantifiers")
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
        if self._take("?") and not self._take(":"):
            name = _NAMED.match(self._text, self._at)
            if name is None:
                raise PatternError("look-around, flags and back-references are not supported")
            self._at = name.end()
        tree = self._alternatives()
        if not self._take(")"):
            raise PatternError("missing )")
        self._depth -= 1
        return tree

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
        raise PatternError(f"the escape \\{char} is not supported")
    return _one(char)
