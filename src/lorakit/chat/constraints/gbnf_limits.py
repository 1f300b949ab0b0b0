"""Whether a grammar of rules can be followed: how deep they lead, how many ways there are."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.errors import ParameterError

MAX_LEFT = 400  # rules that begin with each other
MAX_WAYS = 4000  # alternatives at any one place
TERMINAL = -1  # an element that takes a character; others are the numbers of rules


def refused(why: str) -> ParameterError:
    """The error of a grammar that is none, or beyond a limit."""
    return ParameterError(
        "the grammar cannot be read",
        items=[why],
        hint='GBNF with a rule named root, such as: root ::= "yes" | "no"',
    )


class Measure:
    """The depth and the number of alternatives at the start of each rule."""

    def __init__(self, rules: dict[int, list[list[int]]], names: dict[str, int]) -> None:
        self._rules = rules
        self._names = {rule: name for name, rule in names.items()}
        self._empty = self._nullable()
        self._ways: dict[int, int] = {}  # alternatives at the start of a rule
        self._depth: dict[int, int] = {}

    def check(self) -> None:
        for group in components({rule: self._firsts(rule) for rule in self._rules}):
            self._settle(group)
        for row in (row for rows in self._rules.values() for row in rows):
            ways = 0
            for element in reversed(row):
                ways = self._first(element) + (ways if element in self._empty else 0)
                if ways > MAX_WAYS:
                    raise refused(f"more than {MAX_WAYS} alternatives at one place")

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
            raise refused(f"more than {MAX_LEFT} rules that begin with each other")
        if ways > MAX_WAYS:
            raise refused(f"more than {MAX_WAYS} alternatives at one place")
        self._ways |= dict.fromkeys(group, ways)
        self._depth |= dict.fromkeys(group, depth)

    def _require_last(self, rule: int, row: list[int], at: int) -> None:
        """A rule may begin with itself only if nothing follows: ("a"*)* may, a ::= b a "c" not."""
        if at < len(row) - 1:
            raise refused(f"left recursion: {self._names.get(rule, 'a group')} begins with itself")

    def _leading(self, row: list[int]) -> list[int]:
        """The elements that a row may begin with."""
        for at, element in enumerate(row):
            if element not in self._empty:
                return row[: at + 1]
        return row

    def _firsts(self, rule: int) -> list[int]:
        """The rules that a rule may begin with."""
        leading = (element for row in self._rules[rule] for element in self._leading(row))
        return [element for element in leading if element != TERMINAL]

    def _first(self, element: int) -> int:
        return 1 if element == TERMINAL else self._ways[element]

    def _nullable(self) -> set[int]:
        """The rules that may match nothing."""
        users: dict[int, list[tuple[int, int]]] = {}  # the rows that refer to a rule
        missing: dict[tuple[int, int], int] = {}
        ready: list[int] = []
        for rule, rows in self._rules.items():
            for at, row in enumerate(rows):
                if TERMINAL in row:
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


def components(graph: dict[int, list[int]]) -> Iterator[set[int]]:
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
