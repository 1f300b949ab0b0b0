"""Lark grammars taken apart: their tokens, their rules, and how large their terminals are.

It knows as much of llguidance's dialect as bounds need: where texts, expressions and schemas
stand, which rule names which, and how often what is repeated. What never ends is refused.
Source: llguidance's docs/syntax.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lorakit.chat.constraints.gbnf_limits import components

_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*+(?P<ended>"i?)?)|(?P<comment>(?://|\#)[^\n]*)"""
    r"""|(?P<regex>/(?:\\.|[^/\\\n])*+(?P<closed>/[a-z]*)?)|(?P<percent>%[A-Za-z_]+)"""
    r"""|(?P<name>[A-Za-z_][\w-]*)|(?P<param>::)|(?P<colon>:)"""
    r"""|(?P<times>\{\s*+[0-9]*+\s*+(?:,\s*+[0-9]*+\s*+)?\})|(?P<space>\s+)|(?P<rest>.)""",
    re.DOTALL,
)
_IN_REGEX = re.compile(
    r"\\[xuUpP]\{[^}]{0,40}\}|\\.|(?P<cls>\[\^?\]?(?:\\.|[^\]\\])*\]?)|(?P<open>\()|(?P<close>\))"
    r"|(?P<times>\{\s*+[0-9]*+\s*+(?:,\s*+[0-9]*+\s*+)?\})|.",
    re.DOTALL,
)
_COUNT = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """kind: the name of its group in the expression above. text: as it is written."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """attributes: what stands in brackets after its name. body: the tokens that are no space."""

    name: str
    attributes: tuple[str, ...] = ()
    body: list[Token] = field(default_factory=list)


def token_at(text: str, at: int) -> Token:
    """The token at a position. Raises ValueError for one that never ends."""
    found = _TOKEN.match(text, at)
    assert found is not None  # `rest` is any character
    kind, written = str(found.lastgroup), found[0]
    if kind == "text" and found["ended"] is None:
        raise ValueError(f"the text at position {at} never ends")
    if kind == "regex" and found["closed"] is None:
        raise ValueError(f"the expression at position {at} never ends")
    return Token(kind=kind, text=written)


def tokens_of(text: str) -> list[Token]:
    """All tokens of a grammar without schemas. Raises ValueError for one that never ends."""
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        tokens.append(token_at(text, at))
        at += len(tokens[-1].text)
    return tokens


def rules_of(tokens: Sequence[Token]) -> list[Rule]:
    """The rules of a grammar, in order; what stands before the first has no name."""
    rules = [Rule(name="")]
    for token in tokens:
        if token.kind in ("space", "comment"):
            continue
        head = _head(rules[-1].body) if token.kind == "colon" else None
        if head is not None:
            rules.append(head)
        else:
            rules[-1].body.append(token)
    return rules


def _head(body: list[Token]) -> Rule | None:
    """Take the name of a rule, with its attributes, its priority or its parameter, off the end of
    what stands before a colon; None where that is no name, as in JSON."""
    at = len(body)
    attributes: list[str] = []
    if at and body[at - 1].text == "]":
        while at and body[at - 1].text != "[":
            at -= 1
            attributes.append(body[at].text)
        at -= 1
    elif at > 2 and body[at - 2].kind == "param":
        at -= 2
    elif at and body[at - 1].text.isdecimal():
        while at and body[at - 1].text.isdecimal():
            at -= 1
        at -= 1
    if at < 1 or body[at - 1].kind != "name":
        return None
    name = body[at - 1].text
    del body[at - 1 :]
    return Rule(name=name, attributes=tuple(attributes))


def graph_of(rules: Sequence[Rule]) -> tuple[dict[int, list[int]], dict[str, int]]:
    """Which rules name which, by number, and the numbers of the names."""
    numbers: dict[str, int] = {}
    for rule in rules:
        numbers.setdefault(rule.name, len(numbers))
    graph: dict[int, list[int]] = {number: [] for number in numbers.values()}
    for rule in rules:
        named = (token.text for token in rule.body if token.kind == "name")
        graph[numbers[rule.name]] += [numbers[name] for name in named if name in numbers]
    return {number: list(dict.fromkeys(inner)) for number, inner in graph.items()}, numbers


def sizes_of(rules: Sequence[Rule]) -> dict[str, int]:
    """How many characters and classes each terminal is, what it names and repeats expanded; and
    for other rules, how many the texts and expressions in them are."""
    graph, numbers = graph_of(rules)
    bodies: dict[int, list[Rule]] = {}
    for rule in rules:
        bodies.setdefault(numbers[rule.name], []).append(rule)
    names = {number: name for name, number in numbers.items()}
    sizes: dict[str, int] = {}
    for group in components(graph):
        for number in group:
            found = sum(_size(rule, sizes) for rule in bodies[number])
            sizes[names[number]] = found
    return sizes


def _size(rule: Rule, known: Mapping[str, int]) -> int:
    if not rule.name.lstrip("_")[:1].isupper():
        return sum(_own(token) for token in rule.body)

    def units() -> Iterator[tuple[str, int]]:
        for token in rule.body:
            if token.kind == "name":
                yield "unit", known.get(token.text, 1)
            elif token.kind == "times":
                yield "times", _most(token.text)
            elif token.text in ("(", "["):
                yield "open", 0
            elif token.text in (")", "]"):
                yield "close", 0
            else:
                yield "unit", _own(token)

    return _expanded(units())


def _own(token: Token) -> int:
    """The size of a text or an expression by itself."""
    if token.kind == "regex":
        return regex_size(token.text[1:].rpartition("/")[0])
    return len(token.text.strip('"')) if token.kind == "text" else 0


def regex_size(pattern: str) -> int:
    """How many characters and classes an expression in Rust's syntax has, repetitions expanded.

    A class counts at most to where Rust ends it, so that nothing repeated is overlooked.
    """

    def units() -> Iterator[tuple[str, int]]:
        for found in _IN_REGEX.finditer(pattern):
            kind = found.lastgroup or "unit"
            if kind == "times":
                yield "times", _most(found[0])
            else:
                yield ("unit" if kind == "cls" else kind), 1

    return _expanded(units())


def _expanded(units: Iterator[tuple[str, int]]) -> int:
    """The size of what consists of units, groups of them, and repetitions of the last of either."""
    sums, last = [0], 0
    for kind, size in units:
        if kind == "open":
            sums.append(0)
            last = 0
        elif kind == "close":
            last = sums.pop() if len(sums) > 1 else 0
            sums = sums or [0]
            sums[-1] += last
        elif kind == "times":
            sums[-1] += last * (size - 1)
            last *= size
        elif size:
            sums[-1] += size
            last = size
    return sum(sums)


def _most(times: str) -> int:
    """The highest number of a repetition; what has no highest counts its lowest."""
    return max((int(digits[:12]) for digits in _COUNT.findall(times)), default=1) or 1
