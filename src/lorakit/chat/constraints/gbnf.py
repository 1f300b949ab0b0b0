"""GBNF, llama.cpp's notation of grammars, written in llguidance's Lark dialect, within limits.

A grammar that is too deep, too large or too ambiguous is refused, and so is one that begins with
itself. GBNF tells characters one by one, where llguidance reads the longest word that fits: so each
character is a word of its own, unless no rule contains itself; the whole is then one expression.
Source: llama.cpp grammars/README.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lorakit.chat.constraints.expressions import exactly
from lorakit.chat.constraints.gbnf_limits import TERMINAL, Measure, refused
from lorakit.chat.constraints.lark import literal
from lorakit.chat.constraints.lark_scan import rules_of, sizes_of, tokens_of
from lorakit.errors import ParameterError

# A thread with 128 KiB of stack survives 270 nested groups, and 911 rules that begin with each
# other. The other limits bound time to about a second and memory to 100 MiB.
MAX_TEXT = 1 << 18  # characters
MAX_NESTING = 24  # groups inside each other
MAX_RULES = 20_000  # including those that groups and repetitions need
MAX_ELEMENTS = 200_000  # characters and references, with repetitions expanded
MAX_EXPRESSION = 200_000  # characters of the whole as one expression, all expanded
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


_BY_NUMBER = re.compile(r"!?<\[([0-9]{1,9})\]>")
_ESCAPED = {"t": 9, "r": 13, "n": 10}
_REFERENCE = re.compile("\0([0-9]+)\0")  # a rule within what is written, until all are known


@dataclass(slots=True)
class _Sequence:
    """Elements in order, each with its size in llama.cpp; and its symbols in Lark."""

    elements: list[int] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def add(self, element: int, cost: int) -> None:
        self.elements.append(element)
        self.costs.append(cost)


def is_gbnf(text: str) -> bool:
    """Whether a grammar is in GBNF, and not in Lark."""
    return "::=" in text


def lark_of(text: str) -> str:
    """A grammar in Lark. Raises ParameterError if it is not one in GBNF, or exceeds a limit."""
    parser = _parsed(text)
    root = parser.names["root"]
    order, recursive = _reached(parser.lark, root)
    if not recursive and not parser.has_tokens:
        found = _lines(parser, order, "R", root)  # terminals: one expression
        if sizes_of(rules_of(tokens_of(found)))[f"R{root}"] <= MAX_EXPRESSION:
            return found
    return _lines(parser, order, "r", root)


def _lines(parser: _Parser, order: list[int], kind: str, root: int) -> str:
    """The rules in Lark, with names that begin with `kind`."""
    names = {rule: f"{kind}{rule}" for rule in order}
    lines = [
        f"{names[rule]}: {_REFERENCE.sub(lambda found: names[int(found[1])], parser.lark[rule])}"
        for rule in order
    ]
    return "\n".join([f"start: {names[root]}", *lines])


def _reached(rules: dict[int, str], root: int) -> tuple[list[int], bool]:
    """The rules that a grammar uses, and whether any of them contains itself."""
    inner = {
        rule: [int(found) for found in _REFERENCE.findall(text)] for rule, text in rules.items()
    }
    order: list[int] = []
    recursive = False
    inside: set[int] = set()
    work = [(root, iter(inner[root]))]
    seen = {root}
    inside.add(root)
    while work:
        rule, following = work[-1]
        for after in following:
            recursive = recursive or after in inside
            if after not in seen:
                seen.add(after)
                inside.add(after)
                work.append((after, iter(inner[after])))
                break
        else:
            work.pop()
            inside.discard(rule)
            order.append(rule)
    return order[::-1], recursive


def _parsed(text: str) -> _Parser:
    """The rules of a grammar. Raises ParameterError."""
    if not isinstance(text, str):
        raise ParameterError(f"a grammar must be text, found {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise refused(f"{len(text)} characters; the limit is {MAX_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refused(f"a lone surrogate at position {error.start}") from error
    if "\0" in text:
        raise refused(f"a NUL at position {text.index(chr(0))}")
    parser = _Parser(text)
    parser.read()
    Measure(parser.rules, parser.names).check()
    return parser


class _Parser:
    """Rules as lists of alternatives, each a list of elements; and in Lark, by their numbers."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.names: dict[str, int] = {}
        self.rules: dict[int, list[list[int]]] = {}
        self.lark: dict[int, str] = {}
        self.has_tokens = False
        self._count = self._elements = 0

    def read(self) -> None:
        self._skip(_LINES)
        while self._at < len(self._text):
            name = self._take(_NAME, "the name of a rule")
            self._skip(_SPACE)
            self._take(re.compile("::="), "::=")
            self._skip(_LINES)
            rule = self._number(name)
            self.lark[rule] = self._alternatives(rule, depth=0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._wrong("a new line or the end")
            self._skip(_LINES)
        if "root" not in self.names:
            raise refused("no rule is named root")
        missing = sorted(name for name, rule in self.names.items() if rule not in self.rules)
        if missing:
            raise refused(f"no rule is named {', '.join(missing)[:200]}")

    def _alternatives(self, rule: int, depth: int) -> str:
        """Read the alternatives of a rule or a group; returns them in Lark."""
        if depth > MAX_NESTING:
            raise refused(f"more than {MAX_NESTING} nested groups")
        rows = [self._sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            self._skip(_LINES)
            rows.append(self._sequence(depth))
        self._spend(len(rows))
        self.rules[rule] = [row.elements for row in rows]
        return " | ".join(" ".join(row.pieces) or '""' for row in rows)

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
            self._literal(row, text)
        elif sign == "[":
            self._class(row, self._take(_CLASS, "the end of a [class]")[1:-1])
        elif sign and sign in "<!":
            self._add(row, TERMINAL, 1, self._token(self._take(_TOKEN, "a <token>")))
        elif sign == ".":
            self._at += 1
            self._add(row, TERMINAL, 1, "/(?s:.)/")
        elif sign == "(":
            self._at += 1
            self._skip(_LINES)
            rule = self._new_rule()
            inner = self._alternatives(rule, depth + 1)
            if self._peek() != ")":
                raise self._wrong(")")
            self._at += 1
            self._add(row, rule, 1, f"({inner})")
        elif _NAME.match(sign):
            number = self._number(self._take(_NAME, "a name"))
            self._add(row, number, 1, f"\0{number}\0")
        else:
            return False
        self._skip(_LINES if depth else _SPACE)
        return True

    def _literal(self, row: _Sequence, inner: str) -> None:
        codes = self._codes(inner, text=True)
        if codes:
            written = " ".join(literal(chr(code)) for code in codes)
            self._add(row, TERMINAL, len(codes), f"({written})" if len(codes) > 1 else written)

    def _class(self, row: _Sequence, inner: str) -> None:
        negated = inner.startswith("^")
        written = _ONE.findall(inner[negated:])
        codes = self._codes(inner[negated:])
        if not codes:
            raise self._wrong("a class of some characters")
        parts: list[str] = []
        at = 0
        while at < len(codes):
            low = high = codes[at]
            if written[at + 1 : at + 2] == ["-"] and at + 2 < len(codes):
                high = codes[at + 2]
                at += 2
            if high < low:
                raise refused(f"a range from {chr(low)!r} to {chr(high)!r}")
            parts.append(exactly(chr(low)) if low == high else f"\\x{{{low:x}}}-\\x{{{high:x}}}")
            at += 1
        text = f"/[{'^' * negated}{''.join(parts)}]/"
        self._add(row, TERMINAL, len(codes) + negated, text)

    def _codes(self, inner: str, *, text: bool = False) -> list[int]:
        """The characters of a literal or a class.

        What is no character of a text is refused as an escape too: no token could write it.
        """
        codes: list[int] = []
        for written in _ONE.findall(inner):
            code = ord(written[-1])
            if written[0] == "\\" and written[1] in "xuU":
                code = int(written[2:], 16)
                if 0xD800 <= code < 0xE000 or code > 0x10FFFF or (text and not code):
                    raise refused(f"{written} is no character of a text")
            elif written[0] == "\\":
                code = _ESCAPED.get(written[1], code)
            codes.append(code)
        return codes

    def _token(self, written: str) -> str:
        """A token by its number, or by its text, which has to be a control token."""
        self.has_tokens = True
        by_number = _BY_NUMBER.fullmatch(written)
        if by_number:
            return f"<[{'^' * written.startswith('!')}{by_number[1]}]>"
        if written.startswith("!") or not re.fullmatch(r"<[^<>\s]+>", written):
            raise refused(f"{written}: a token is such as <[5]>, !<[5]> or <|im_end|>")
        return written

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
            raise refused(f"{least} repetitions; the limit is {MAX_TIMES}")
        return least, most if most is None or most <= MAX_TIMES else None

    def _repeat(self, row: _Sequence, last: int, least: int, most: int | None) -> None:
        """S{m,n} expanded as in llama.cpp: S m times, then one rule for each optional S."""
        if most is not None and most < least:
            raise refused(f"a repetition with minimum {least} and maximum {most}")
        symbol, costs = row.elements[last:], row.costs[last:]
        if not symbol:
            raise self._wrong("a symbol before a repetition")
        times = f"{{{least},{'' if most is None else most}}}"
        row.pieces[-1] = f"({row.pieces[-1]}){times}" if most != 0 else '""'
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
            raise refused(f"more than {MAX_RULES} rules, groups and repetitions")
        return self._count - 1

    def _add(self, row: _Sequence, element: int, cost: int, piece: str) -> None:
        self._spend(cost)
        row.add(element, cost)
        row.pieces.append(piece)

    def _spend(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise refused(
                f"more than {MAX_ELEMENTS} characters and references, repetitions expanded"
            )

    def _wrong(self, expected: str) -> ParameterError:
        line = self._text.count("\n", 0, self._at) + 1
        found = self._text[self._at : self._at + 20]
        return refused(f"line {line}: expected {expected}, found {found!r}")


_QUANTIFIERS: dict[str, tuple[int, int | None]] = {
    "*": (0, None), "+": (1, None), "?": (0, 1), "{": (0, 0),
}  # fmt: skip
