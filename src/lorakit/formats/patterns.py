"""Regular expressions from untrusted files, matched in linear time.

An adapter's config may hold regular expressions, and Python's `re` can be made to run for years by
one. Here a pattern becomes a small automaton that is run without backtracking (Thompson 1968), with
a bound on its size and on the work of one table. A look-ahead is an automaton of its own: one walk
over the text from its end says where it holds. What is taken of `re` stands in pattern_parser.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lorakit.formats.pattern_parser import (
    Anchor,
    Either,
    Look,
    Node,
    PatternError,
    Repeat,
    Sequenced,
    Test,
    is_word,
    parse,
)

MAX_LENGTH = 8192  # characters of one pattern
MAX_STATES = 20_000  # instructions of one automaton
MAX_WORK = 2_000_000  # instructions visited and names looked up for one file: about a second
COMPILING = 60  # what a character of a pattern costs

_LITERAL = re.compile(r"[\w./ -]*", re.ASCII)

# What to pass (a test of the next character, an anchor, a look-ahead, or nothing), and where to
# go then.
Instruction = tuple[Test | Anchor | Look | None, tuple[int, ...]]


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
    looks: tuple[_Ahead, ...] = ()
    _steps: dict[_Place, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def compile(cls, pattern: str, budget: Budget | None = None) -> Regex:
        """Raises PatternError."""
        if len(pattern) > MAX_LENGTH:
            raise PatternError(f"a pattern of {len(pattern)} characters; {MAX_LENGTH} is the limit")
        budget = budget or Budget()
        budget.spend(COMPILING * len(pattern))
        return cls._of(parse(pattern), budget)

    @classmethod
    def _of(cls, tree: Node, budget: Budget) -> Regex:
        program = _emit(tree)
        budget.spend(len(program))
        return cls(program, budget, _aheads(program, budget))

    def fullmatch(self, text: str) -> bool:
        states, before = frozenset((0,)), ""
        holds = _positions(self.looks, text)
        for char, held in zip(text, holds, strict=False):
            key = (states, before, char, held)
            if key not in self._steps:
                self._steps[key] = self._step(*key)
            states, before = self._steps[key], char
            if not states:
                return False
        return len(self.program) - 1 in self._close(states, before, "", holds[-1])

    def _step(
        self, states: frozenset[int], before: str, char: str, holds: frozenset[Look]
    ) -> frozenset[int]:
        moved: set[int] = set()
        for state in self._close(states, before, char, holds):
            test, after = self.program[state]
            if callable(test) and test(char):
                moved.update(after)
        return frozenset(moved)

    def _close(
        self, states: frozenset[int], before: str, after: str, holds: frozenset[Look]
    ) -> set[int]:
        """All states that can be reached here, between two characters, without a character."""
        passed = {None, *_anchors(before, after), *holds}
        seen, stack = set(states), list(states)
        while stack:
            test, following = self.program[stack.pop()]
            if not callable(test) and test in passed:
                fresh = [state for state in following if state not in seen]
                seen.update(fresh)
                stack.extend(fresh)
        self.budget.spend(len(seen))
        return seen


_Place = tuple[frozenset[int], str, str, frozenset[Look]]


@dataclass(slots=True)
class _Ahead:
    """The automaton of a look-ahead, walked from a text's end to its beginning."""

    look: Look
    program: list[Instruction]
    budget: Budget
    inner: tuple[_Ahead, ...]
    before: list[list[int]]  # the instructions that lead to each
    _steps: dict[_Place, frozenset[int]] = field(default_factory=dict)

    def holds(self, text: str) -> list[bool]:
        """Whether it holds at each position."""
        found, ahead = [], frozenset[int]()
        inner = _positions(self.inner, text)
        for at in range(len(text), -1, -1):
            key = (ahead, text[at - 1 : at] if at else "", text[at : at + 1], inner[at])
            if key not in self._steps:
                self._steps[key] = self._back(*key)
            ahead = self._steps[key]
            found.append((0 in ahead) is not self.look.negative)
        return found[::-1]

    def _back(
        self, ahead: frozenset[int], before: str, char: str, holds: frozenset[Look]
    ) -> frozenset[int]:
        """The instructions from which the end can be reached, given those one character on."""
        passed = {None, *_anchors(before, char), *holds}
        seen = {len(self.program) - 1}
        for state in ahead:
            for earlier in self.before[state]:
                test = self.program[earlier][0]
                if callable(test) and char and test(char):
                    seen.add(earlier)
        stack = list(seen)
        while stack:
            for earlier in self.before[stack.pop()]:
                test = self.program[earlier][0]
                if earlier not in seen and not callable(test) and test in passed:
                    seen.add(earlier)
                    stack.append(earlier)
        self.budget.spend(3 * len(seen))  # they are kept, and take memory
        return frozenset(seen)


def _aheads(program: list[Instruction], budget: Budget) -> tuple[_Ahead, ...]:
    """The look-aheads of a program, each compiled once."""
    found: dict[Look, _Ahead] = {}
    for look, _ in program:
        if not isinstance(look, Look) or look in found:
            continue
        inner = _emit(look.node)
        budget.spend(len(inner))
        before: list[list[int]] = [[] for _ in inner]
        for state, (_, following) in enumerate(inner):
            for after in following:
                before[after].append(state)
        found[look] = _Ahead(look, inner, budget, _aheads(inner, budget), before)
    return tuple(found.values())


def _positions(looks: Sequence[_Ahead], text: str) -> list[frozenset[Look]]:
    """The look-aheads that hold at each position of a text, its end included."""
    if not looks:
        return [_NOTHING] * (len(text) + 1)
    held = [(ahead.look, ahead.holds(text)) for ahead in looks]
    return [frozenset(look for look, where in held if where[at]) for at in range(len(text) + 1)]


_NOTHING: frozenset[Look] = frozenset()


def _anchors(before: str, after: str) -> list[Anchor]:
    found: list[Anchor] = ["^"] if not before else []
    if not after:
        found.append("$")
    if bool(before and is_word(before)) != bool(after and is_word(after)):
        found.append("b")
    return found


class PatternTable:
    """PEFT's rule for its pattern dictionaries: ``(.*\\.)?(key)$`` on a name, first key wins.

    Most keys are plain names. A dot in one stands for any character, so that it matches the end of
    a name when that end, with dots put at the key's dots, is the key: one lookup finds them all.
    Names of one outline are looked up alike, and there are few outlines, however many names.
    """

    def __init__(self, keys: Sequence[str], budget: Budget | None = None) -> None:
        """Raises PatternError for a key that is no regular expression, or beyond the bounds."""
        self._keys = keys
        self._budget = budget or Budget()
        self._plain: dict[tuple[_Outline, bool], dict[str, int]] = {}  # and whether anchored
        self._regexes: list[tuple[int, Regex]] = []
        self._possible: dict[_Outline, list[_Lookup]] = {}
        self._found: dict[str, int] = {}
        for index, key in enumerate(keys):
            plain = key.removeprefix("^")
            if _LITERAL.fullmatch(plain):
                outline = (_outline(plain), plain != key)
                self._plain.setdefault(outline, {}).setdefault(plain, index)
            else:
                regex = Regex.compile(rf"(.*\.)?({key})$", self._budget)
                self._regexes.append((index, regex))

    def first(self, name: str) -> str | None:
        """The first key that matches, or None. Raises PatternError at the end of the budget."""
        if not self._keys:
            return None
        best = self._found.get(name)
        if best is None:
            best = self._found[name] = self._first(name)
        return self._keys[best] if best < len(self._keys) else None

    def _first(self, name: str) -> int:
        best = len(self._keys)
        for start, dots, keys in self._lookups(name):
            tail = name[start:]
            if dots:
                tail = _with_dots(tail, dots)
            best = min(best, keys.get(tail, best))
        for index, regex in self._regexes:
            if index < best and regex.fullmatch(name):
                best = index
        return best

    def _lookups(self, name: str) -> list[_Lookup]:
        """Where keys may begin in a name of this outline, and where dots must be put for it."""
        outline = _outline(name)
        found = self._possible.get(outline)
        if found is None:
            found = self._possible[outline] = list(self._placed(outline))
        self._budget.spend(1 + len(found))
        return found

    def _placed(self, outline: _Outline) -> Iterator[_Lookup]:
        size, own = _size(outline), _dots(outline)
        for (other, whole), keys in self._plain.items():
            self._budget.spend(len(other))
            start = size - _size(other)
            if start == 0 or (start > 0 and not whole and start - 1 in own):
                yield start, tuple(at for at in _dots(other) if start + at not in own), keys


_Outline = tuple[int, ...]  # the lengths of a name's steps


def _outline(name: str) -> _Outline:
    return tuple(map(len, name.split(".")))


def _size(outline: _Outline) -> int:
    return sum(outline) + len(outline) - 1


def _dots(outline: _Outline) -> frozenset[int]:
    """Where the dots are."""
    found, at = [], -1
    for length in outline[:-1]:
        at += length + 1
        found.append(at)
    return frozenset(found)


def _with_dots(text: str, places: Sequence[int]) -> str:
    chars = list(text)
    for at in places:
        chars[at] = "."
    return "".join(chars)


_Lookup = tuple[int, tuple[int, ...], dict[str, int]]


def _emit(tree: Node) -> list[Instruction]:
    """The automaton of a tree; its last instruction is the match."""
    code: list[Instruction] = []

    def put(test: Test | Anchor | Look | None, *after: int) -> int:
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
