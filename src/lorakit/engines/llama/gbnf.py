"""GBNF grammars are checked against limits before llama.cpp parses them.

llama.cpp parses recursively, copies whatever is repeated, and follows all alternatives at once: a
few bytes can overflow the stack or use up all memory. So a grammar is parsed here first, by the
same rules, and refused if it is too deep, too large or too ambiguous. llama.cpp then parses the
text again. How an ambiguous grammar's state grows while an answer is generated is not bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lorakit.errors import ParameterError

# A thread with 128 KiB of stack survives 270 nested groups, and 911 rules that begin with each
# other. The other limits bound time to about a second and memory to 100 MiB.
MAX_TEXT = 1 << 18  # characters
MAX_NESTING = 100  # groups inside each other
MAX_LEFT = 400  # rules that begin with each other
MAX_RULES = 20_000  # including those that groups and repetitions need
MAX_ELEMENTS = 200_000  # characters and references, with repetitions expanded
MAX_WAYS = 4096  # alternatives at any one place
MAX_TIMES = 2000  # repetitions, as in llama.cpp: a higher maximum means unbounded

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_NUMBER = re.compile(r"[0-9]+")
_CHARACTER = r'\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\"\[\]-])|[^\\%s]'
_LITERAL = re.compile(rf'"(?:{_CHARACTER % chr(34)})*"')
_CLASS = re.compile(rf"\[\^?(?:{_CHARACTER % re.escape(']')})*\]")
_ONE = re.compile(_CHARACTER % "")
_TOKEN = re.compile(r"!?<[^>]*>")

_TERMINAL = -1  # an element that takes a character; others are the numbers of rules


@dataclass(slots=True)
class _Sequence:
    """Elements in order, each with its size in llama.cpp."""

    elements: list[int] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)

    def add(self, element: int, cost: int) -> None:
        self.elements.append(element)
        self.costs.append(cost)


def check_grammar(text: str) -> None:
    """Raises ParameterError if it is not a grammar, or exceeds a limit."""
    if not isinstance(text, str):
        raise ParameterError(f"a grammar must be text, found {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise _refused(f"{len(text)} characters; the limit is {MAX_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused(f"a lone surrogate at position {error.start}") from error
    if "\0" in text:
        raise _refused(f"a NUL at position {text.index(chr(0))}")
    parser = _Parser(text)
    parser.read()
    _Measure(parser.rules, parser.names).check()


def _refused(why: str) -> ParameterError:
    return ParameterError(
        "the grammar cannot be read",
        items=[why],
        hint='GBNF with a rule named root, such as: root ::= "yes" | "no"',
    )


class _Parser:
    """Rules as lists of alternatives, each a list of elements."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.names: dict[str, int] = {}
        self.rules: dict[int, list[list[int]]] = {}
        self._count = self._elements = 0

    def read(self) -> None:
        self._skip(_LINES)
        while self._at < len(self._text):
            name = self._take(_NAME, "the name of a rule")
            self._skip(_SPACE)
            self._take(re.compile("::="), "::=")
            self._skip(_LINES)
            self._alternatives(self._number(name), depth=0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._wrong("a new line or the end")
            self._skip(_LINES)
        if "root" not in self.names:
            raise _refused("no rule is named root")
        missing = sorted(name for name, rule in self.names.items() if rule not in self.rules)
        if missing:
            raise _refused(f"no rule is named {', '.join(missing)[:200]}")

    def _alternatives(self, rule: int, depth: int) -> None:
        if depth > MAX_NESTING:
            raise _refused(f"more than {MAX_NESTING} nested groups")
        found = [self._sequence(depth).elements]
        while self._peek() == "|":
            self._at += 1
            self._skip(_LINES)
            found.append(self._sequence(depth).elements)
        self._spend(len(found))
        self.rules[rule] = found

    def _sequence(self, depth: int) -> _Sequence:
        row = _Sequence()
        last = 0  # start of the last symbol, to which a repetition applies
        while True:
            sign = self._peek()
            if sign in _QUANTIFIERS:
                self._repeat(row, last, *self._times(depth))
                continue
            begin = len(row.elements)
            if not self._symbol(sign, row, depth):
                return row
            last = begin

    def _symbol(self, sign: str, row: _Sequence, depth: int) -> bool:
        """Read one symbol; False at the end of the sequence."""
        if sign == '"':
            text = self._take(_LITERAL, 'the end of a "literal"')[1:-1]
            self._characters(row, text, literal=True)
        elif sign == "[":
            self._characters(row, self._take(_CLASS, "the end of a [class]")[1:-1])
        elif sign and sign in "<!":
            self._take(_TOKEN, "a <token>")
            self._add(row, _TERMINAL, 1)
        elif sign == ".":
            self._at += 1
            self._add(row, _TERMINAL, 1)
        elif sign == "(":
            self._at += 1
            self._skip(_LINES)
            rule = self._new_rule()
            self._alternatives(rule, depth + 1)
            if self._peek() != ")":
                raise self._wrong(")")
            self._at += 1
            self._add(row, rule, 1)
        elif _NAME.match(sign):
            self._add(row, self._number(self._take(_NAME, "a name")), 1)
        else:
            return False
        self._skip(_LINES if depth else _SPACE)
        return True

    def _characters(self, row: _Sequence, inner: str, *, literal: bool = False) -> None:
        """A literal or a class; only its number of characters matters here.

        What is no character of a text is refused as an escape too: no token could write it.
        """
        found = _ONE.findall(inner)
        for written in found:
            if written[0] == "\\" and written[1] in "xuU":
                code = int(written[2:], 16)
                if 0xD800 <= code < 0xE000 or code > 0x10FFFF or (literal and not code):
                    raise _refused(f"{written} is no character of a text")
        if found:
            self._add(row, _TERMINAL, len(found))

    def _times(self, depth: int) -> tuple[int, int | None]:
        """The minimum and maximum of a quantifier; None is unbounded."""
        sign, space = self._peek(), _LINES if depth else _SPACE
        self._at += 1
        self._skip(space)
        if sign != "{":
            return _QUANTIFIERS[sign]
        least = self._integer(space)
        most: int | None = least
        if self._peek() == ",":
            self._at += 1
            self._skip(space)
            most = self._integer(space) if _NUMBER.match(self._peek()) else None
        if self._peek() != "}":
            raise self._wrong("}")
        self._at += 1
        self._skip(space)
        if least > MAX_TIMES:
            raise _refused(f"{least} repetitions; the limit is {MAX_TIMES}")
        return least, most if most is None or most <= MAX_TIMES else None

    def _repeat(self, row: _Sequence, last: int, least: int, most: int | None) -> None:
        """S{m,n} expanded as in llama.cpp: S m times, then one rule for each optional S."""
        if most is not None and most < least:
            raise _refused(f"a repetition with minimum {least} and maximum {most}")
        symbol, costs = row.elements[last:], row.costs[last:]
        if not symbol:
            raise self._wrong("a symbol before a repetition")
        further = 1 if most is None else most - least
        self._spend(sum(costs) * (max(least - 1, 0) + further) + 3 * further)
        if not least:
            del row.elements[last:], row.costs[last:]
        row.elements += symbol * (least - 1)
        row.costs += costs * (least - 1)
        before: int | None = None
        for _ in range(further):
            rule = self._new_rule()
            rest = rule if most is None else before
            self.rules[rule] = [symbol if rest is None else [*symbol, rest], []]
            before = rule
        if before is not None:
            row.add(before, 1)

    # Reading characters; counting against the limits.

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, space: re.Pattern[str]) -> None:
        if found := space.match(self._text, self._at):
            self._at = found.end()

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if not found:
            raise self._wrong(what)
        self._at = found.end()
        return found.group()

    def _integer(self, space: re.Pattern[str]) -> int:
        digits = self._take(_NUMBER, "a number")
        self._skip(space)
        return int(digits) if len(digits) < 10 else MAX_TIMES + 1

    def _number(self, name: str) -> int:
        if name not in self.names:
            self.names[name] = self._new_rule()
        return self.names[name]

    def _new_rule(self) -> int:
        self._count += 1
        if self._count > MAX_RULES:
            raise _refused(f"more than {MAX_RULES} rules, groups and repetitions")
        return self._count - 1

    def _add(self, row: _Sequence, element: int, cost: int) -> None:
        self._spend(cost)
        row.add(element, cost)

    def _spend(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise _refused(
                f"more than {MAX_ELEMENTS} characters and references, repetitions expanded"
            )

    def _wrong(self, expected: str) -> ParameterError:
        line = self._text.count("\n", 0, self._at) + 1
        found = self._text[self._at : self._at + 20]
        return _refused(f"line {line}: expected {expected}, found {found!r}")


_QUANTIFIERS: dict[str, tuple[int, int | None]] = {
    "*": (0, None), "+": (1, None), "?": (0, 1), "{": (0, 0),
}  # fmt: skip


class _Measure:
    """The depth and the number of alternatives at the start of each rule."""

    def __init__(self, rules: dict[int, list[list[int]]], names: dict[str, int]) -> None:
        self._rules = rules
        self._names = {rule: name for name, rule in names.items()}
        self._empty = self._nullable()
        self._ways: dict[int, int] = {}  # alternatives at the start of a rule
        self._depth: dict[int, int] = {}

    def check(self) -> None:
        for group in _components({rule: self._firsts(rule) for rule in self._rules}):
            self._settle(group)
        for row in (row for rows in self._rules.values() for row in rows):
            ways = 0
            for element in reversed(row):
                ways = self._first(element) + (ways if element in self._empty else 0)
                if ways > MAX_WAYS:
                    raise _refused(f"more than {MAX_WAYS} alternatives at one place")

    def _settle(self, group: set[int]) -> None:
        """Fill in _ways and _depth for rules that begin with each other."""
        depth = ways = 0
        for rule in group:
            for row in self._rules[rule]:
                for at, element in enumerate(self._leading(row)):
                    if element in group:
                        self._require_last(rule, row, at)
                    else:
                        ways += self._first(element)
                        depth = max(depth, self._depth.get(element, 0))
        depth += len(group)
        if depth > MAX_LEFT:
            raise _refused(f"more than {MAX_LEFT} rules that begin with each other")
        if ways > MAX_WAYS:
            raise _refused(f"more than {MAX_WAYS} alternatives at one place")
        self._ways |= dict.fromkeys(group, ways)
        self._depth |= dict.fromkeys(group, depth)

    def _require_last(self, rule: int, row: list[int], at: int) -> None:
        """A rule may begin with itself only if nothing follows: ("a"*)* may, a ::= b a "c" not."""
        if at < len(row) - 1:
            raise _refused(f"left recursion: {self._names.get(rule, 'a group')} begins with itself")

    def _leading(self, row: list[int]) -> list[int]:
        """The elements that a row may begin with."""
        for at, element in enumerate(row):
            if element not in self._empty:
                return row[: at + 1]
        return row

    def _firsts(self, rule: int) -> list[int]:
        """The rules that a rule may begin with."""
        leading = (element for row in self._rules[rule] for element in self._leading(row))
        return [element for element in leading if element != _TERMINAL]

    def _first(self, element: int) -> int:
        return 1 if element == _TERMINAL else self._ways[element]

    def _nullable(self) -> set[int]:
        """The rules that may match nothing."""
        users: dict[int, list[tuple[int, int]]] = {}  # the rows that refer to a rule
        missing: dict[tuple[int, int], int] = {}
        ready: list[int] = []
        for rule, rows in self._rules.items():
            for at, row in enumerate(rows):
                if _TERMINAL in row:
                    continue
                missing[rule, at] = len(row)
                for element in row:
                    users.setdefault(element, []).append((rule, at))
                if not row:
                    ready.append(rule)
        found: set[int] = set()
        while ready:
            rule = ready.pop()
            if rule in found:
                continue
            found.add(rule)
            for place in users.get(rule, ()):
                missing[place] -= 1
                if not missing[place]:
                    ready.append(place[0])
        return found


def _components(graph: dict[int, list[int]]) -> Iterator[set[int]]:
    """Strongly connected nodes, each group after those that it leads to (Tarjan, no recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    waiting: list[int] = []
    inside: set[int] = set()
    for start in graph:
        work = [(start, iter(graph[start]))] if start not in order else []
        while work:
            node, following = work[-1]
            if node not in order:
                order[node] = low[node] = len(order)
                waiting.append(node)
                inside.add(node)
            for after in following:
                if after not in order:
                    work.append((after, iter(graph[after])))
                    break
                if after in inside:
                    low[node] = min(low[node], order[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    group: set[int] = set()
                    while node not in group:
                        group.add(waiting.pop())
                    inside -= group
                    yield group
