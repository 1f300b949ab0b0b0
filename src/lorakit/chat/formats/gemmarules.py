"""Rules of Gemma's calls: what lorakit.chat.formats.gemma reads, as far as a schema allows it.

    call:NAME{key:<escape>text<escape>,n:1.5,list:[1,2]}

Keys stand in the order in which the models' templates sort them, without regard to case, and the
optional ones may be missing. Keys that no property names are bare and may stand anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lorakit.chat.constraints.expressions import exactly
from lorakit.chat.constraints.lark import expression, json_rule, literal
from lorakit.chat.constraints.nodes import (
    AnyValue,
    Array,
    Constant,
    Either,
    Function,
    Json,
    Node,
    Number,
    Object,
    Reference,
    Schema,
    Text,
)
from lorakit.chat.formats.textrules import text_terminal
from lorakit.errors import ParameterError

BARE_NAME = re.compile(r"[^\s{}\[\]:,<>]+")
BARE_KEY = re.compile(r"[^\s{}\[\]:,<>|\"]+")
_OTHER_KEY = '[^\\s\\x00-\\x1f{}\\[\\]:,<>|"]+'
_INTEGER = "/-?(0|[1-9][0-9]{0,14})/"
_REAL = "/-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,15})?([eE](\\+?1?[0-9]{1,2}|-[0-9]{1,3}))?/"
_WORDS = {True: '"true"', False: '"false"', None: '"null"'}


@dataclass(slots=True, kw_only=True)
class GemmaRules:
    """Writes rules, one function after the other. format: its name, for errors; escape: the text
    around strings; mark: an expression of a marker."""

    format: str
    escape: str
    mark: Callable[[str], str]
    _rules: list[str] = field(default_factory=list)
    _faults: list[str] = field(default_factory=list)
    _terminals: dict[str, str] = field(default_factory=dict)  # by their bodies
    _definitions: dict[str, str] = field(default_factory=dict)  # of the function at hand
    _schema: Schema = field(default_factory=lambda: Schema(root=AnyValue()))
    _any: dict[AnyValue, str] = field(default_factory=dict)

    def calls(self, functions: Sequence[Function]) -> tuple[str, str]:
        """An expression of one call, from `call:` to its last brace, and the rules that it uses.

        Raises ParameterError for what the format cannot write, with the function and the path.
        """
        names = [self._call(function) for function in functions]
        if self._faults:
            raise ParameterError(
                f"{self.format} cannot write what these tools allow",
                items=self._faults,
                hint=f"names have no white space and none of {{}}[]:,<>, texts no {self.escape}",
            )
        terminals = [f"{name}: {body}" for body, name in self._terminals.items()]
        text = "\n".join([f"call_one: {' | '.join(names)}", *self._rules, *terminals])
        return "call_one", text

    def _call(self, function: Function) -> str:
        if not BARE_NAME.fullmatch(function.name):
            self._faults.append(f"{function.name}: cannot be a function's name")
        self._schema, self._definitions = function.arguments, {}
        body = self._value(function.arguments.root, function.name)
        return self._rule(f"{literal(f'call:{function.name}')} {body}")

    def _rule(self, body: str) -> str:
        name = f"call_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        return self._terminals.setdefault(body, f"CALL_{len(self._terminals)}")

    def _value(self, node: Node, where: str) -> str:
        """An expression of the values of a node, a name or in parentheses where it needs them."""
        match node:
            case AnyValue():
                return self._any_value(node)
            case Constant():
                return self._choice([self._constant(value, where) for value in node.values])
            case Text():
                return self._text(node)
            case Number():
                return self._number(node)
            case Array():
                return self._array(node, where)
            case Object():
                return self._object(node, where)
            case Either():
                return self._choice([self._value(option, where) for option in node.options])
            case Reference():
                return self._reference(node.name, where)

    def _choice(self, options: list[str]) -> str:
        return options[0] if len(options) == 1 else self._rule(" | ".join(options))

    def _reference(self, name: str, where: str) -> str:
        if name not in self._definitions:
            rule = self._definitions[name] = self._rule("")
            at = len(self._rules) - 1
            value = self._value(self._schema.definitions[name], where)
            self._rules[at] = f"{rule}: {value}"
        return self._definitions[name]

    def _any_value(self, node: AnyValue) -> str:
        if node not in self._any:
            members = [self._text(Text()), self._number(Number()), *_WORDS.values()]
            if node.inner is not None:
                members.append(self._array(Array(rest=node.inner), ""))
                members.append(self._object(Object(rest=node.inner), ""))
            self._any[node] = self._rule(" | ".join(members))
        return self._any[node]

    def _text(self, node: Text) -> str:
        mark, body = self.mark(self.escape), text_terminal(node, self.escape)
        if not mark.startswith('"'):  # a token of its own, which ends what stands before it
            return f"({mark} {self._terminal(body)} {mark})"
        inner = self._terminal(body)
        return self._terminal(f"{mark} {inner} {mark}")

    def _number(self, node: Number) -> str:
        if node == Number(whole=node.whole):
            return self._terminal(_INTEGER if node.whole else _REAL)
        return self._rule(json_rule(Schema(root=node)))

    def _string(self, text: str, where: str) -> str:
        if self.escape in text:
            self._faults.append(f"{where}: a string that holds {self.escape}")
        mark = self.mark(self.escape)
        if mark.startswith('"'):
            return literal(f"{self.escape}{text}{self.escape}")
        return f"({mark} {literal(text)} {mark})" if text else f"({mark} {mark})"

    def _constant(self, value: Json, where: str) -> str:
        if isinstance(value, str):
            return self._string(value, where)
        if isinstance(value, bool | None):
            return _WORDS[value]
        if isinstance(value, int | float):
            return literal(repr(value))
        if isinstance(value, list):
            parts = [self._constant(item, where) for item in value]
            return f'("[" {_joined(parts)} "]")'
        items = sorted(value.items(), key=lambda item: item[0].lower())
        parts = [f"{self._key(key, where)} {self._constant(item, where)}" for key, item in items]
        return f'("{{" {_joined(parts)} "}}")'

    def _key(self, key: str, where: str) -> str:
        if BARE_KEY.fullmatch(key):
            return literal(f"{key}:")
        return f'{self._string(key, where)} ":"'

    def _array(self, node: Array, where: str) -> str:
        first = [self._value(item, f"{where}[{i}]") for i, item in enumerate(node.first)]
        rest = "" if node.rest is None else self._value(node.rest, f"{where}[]")
        tail = self._items(node, first, rest, 0)
        return f'("[" {tail} "]")' if tail else '"[]"'

    def _items(self, node: Array, first: list[str], rest: str, at: int) -> str:
        """What may stand from an item on, with its comma where it is not the first."""
        most = node.most
        comma = '"," ' if at else ""
        if most is not None and at >= most:
            return ""
        if at < len(first):
            here = f"{comma}{first[at]} {self._items(node, first, rest, at + 1)}"
        elif not rest:
            return ""
        elif at:
            least, most = max(0, node.least - at), None if most is None else most - at
            return f'("," {rest}){_times(least, most)}'
        else:
            here = f"{rest} {self._items(node, [rest], rest, 1)}"
        return here if at < node.least else f"({here})?"

    def _object(self, node: Object, where: str) -> str:
        """One rule for what may follow each property, so that none is ambiguous."""
        named = sorted(node.properties.items(), key=lambda item: item[0].lower())
        pairs = [
            (
                f"{self._key(name, f'{where}.{name}')} {self._value(inner, f'{where}.{name}')}",
                name in node.required,
            )
            for name, inner in named
        ]
        other = ""
        if node.rest is not None:
            value = self._value(node.rest, f"{where}.*")
            other = f'{self._other_key([name for name, _ in named])} ":" {value}'
        tails = [""] * (len(pairs) + 1)
        tails[-1] = f'("," {other})*' if other else ""
        for at in range(len(pairs) - 1, 0, -1):
            more = f'("," {other})* ' if other else ""
            tails[at] = self._rule(f"{more}{self._next(pairs, tails, at, comma=True)}")
        begins = self._next(pairs, tails, 0, comma=False)
        if other:
            then = self._next(pairs, tails, 0, comma=True)
            begins = f'{begins} | {other} ("," {other})* {then}'
        return self._rule(f'"{{" ({begins}) "}}"' if pairs or other else '"{}"')

    def _next(
        self, pairs: list[tuple[str, bool]], tails: list[str], at: int, *, comma: bool
    ) -> str:
        """The alternatives of what property comes next, from one on, up to the next required."""
        before = '"," ' if comma else ""
        options = []
        for i in range(at, len(pairs)):
            options.append(f"{before}{pairs[i][0]} {tails[i + 1]}".rstrip())
            if pairs[i][1]:
                return _any_of(options)
        return _any_of([*options, '""'])

    def _other_key(self, known: list[str]) -> str:
        body = expression(_OTHER_KEY)
        if known:
            body += f" & ~{expression('|'.join(map(exactly, known)))}"
        return self._terminal(body)


def _joined(parts: list[str]) -> str:
    return ' "," '.join(parts)


def _any_of(options: list[str]) -> str:
    return f"({' | '.join(options)})"


def _times(least: int, most: int | None) -> str:
    if most is None and not least:
        return "*"
    return f"{{{least},{'' if most is None else most}}}"
