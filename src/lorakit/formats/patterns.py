"""Regular expressions from untrusted files, matched in linear time.

An adapter's config may hold regular expressions, and Python's `re` can be made to run for years by
one. Here a pattern becomes a small automaton that is run without backtracking (Thompson 1968), with
a bound on its size and on the work of one table. Only whole matches are asked for, so that greedy
and lazy quantifiers mean the same. A look-ahead is an automaton of its own: one walk over the text
from its end says where it holds. Look-behind, back-references and flags are refused.
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


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """(?=...) or (?!...): whether what follows here begins so, or does not."""

    node: Node
    negative: bool


Node = Test | Anchor | Repeat | Sequenced | Either | Look
# What to pass (a test of the next character, an anchor, a look-ahead, or nothing), and where to
# go then.
Instruction = tuple[Test | Anchor | Look | None, tuple[int, ...]]


class PatternError(ValueError):
    """A pattern that is not a regular expression, or beyond the subset or its bounds."""


class UnknownSyntaxError(PatternError):
    """A pattern that may be a regular expression, but is none of the subset."""


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
        return cls._of(_Parser(pattern).parse(), budget)

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
    if bool(before and _word(before)) != bool(after and _word(after)):
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
