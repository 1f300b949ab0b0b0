"""Which parameters of Qwen 3 Coder's calls are texts, and the rules of its calls.

A parameter is a text where its type allows nothing else. Texts stand as they are, up to
`</parameter>`, which they cannot hold; every other value is JSON. Parameters stand in the order in
which they are declared, and those that are not declared stand after them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.constraints.expressions import exactly
from lorakit.chat.constraints.lark import expression, json_rule, literal
from lorakit.chat.constraints.nodes import (
    Constant,
    Either,
    Function,
    Node,
    Object,
    Reference,
    Schema,
    Text,
)
from lorakit.chat.formats.textrules import text_terminal
from lorakit.errors import ParameterError

NAME = re.compile(r"[^\s<>\x00]+")
_OTHER_NAME = "[^\\s\\x00-\\x1f<>]+"
_END = "</parameter>"
_AFTER = f"\n{_END}\n"
_DEPTH = 8  # references and alternatives within each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The parameters of a function that are texts. others: whether undeclared ones are."""

    declared: Mapping[str, bool] = field(default_factory=dict)
    others: bool = False

    def __contains__(self, key: str) -> bool:
        return self.declared.get(key, self.others)


def texts_of(function: Mapping[str, Any]) -> Texts:
    """Those of an OpenAI function object."""
    schema = function.get("parameters")
    if not isinstance(schema, Mapping):
        return Texts()
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    return Texts(
        declared={str(key): _says_text(inner, schema, 0) for key, inner in properties.items()},
        others=_says_text(schema.get("additionalProperties"), schema, 0),
    )


def _says_text(schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    """Whether a JSON schema allows texts alone."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return False
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if schema.get("nullable") is True:
        return False
    if kind is not None:
        return all(str(each).lower() == "string" for each in kinds)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        return all(isinstance(value, str) for value in values)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _says_text(_target(reference, root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return all(_says_text(each, root, depth + 1) for each in schema[key])
    parts = schema.get("allOf")
    return isinstance(parts, list) and any(_says_text(each, root, depth + 1) for each in parts)


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    target: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or name not in target:
            return None
        target = target[name]
    return target


def calls(functions: Sequence[Function], mark: Callable[[str], str]) -> tuple[str, str]:
    """An expression of one call, from its opening to its closing tag, and the rules that it uses.

    Raises ParameterError for what the format cannot write, with the function and the path.
    """
    rules = _Rules()
    names = [rules.call(function, mark) for function in functions]
    if rules.faults:
        raise ParameterError(
            "qwen3coder cannot write what these tools allow",
            items=rules.faults,
            hint=f"names without white space, < and >, and texts without {_END}",
        )
    terminals = [f"{name}: {body}" for body, name in rules.terminals.items()]
    return "call_one", "\n".join([f"call_one: {' | '.join(names)}", *rules.rules, *terminals])


@dataclass(slots=True)
class _Rules:
    rules: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    terminals: dict[str, str] = field(default_factory=dict)  # by their bodies

    def call(self, function: Function, mark: Callable[[str], str]) -> str:
        self._check(function.name, function.name)
        root = function.arguments.root
        parts = self._parameters(function, root) if isinstance(root, Object) else []
        begin = literal(f"\n<function={function.name}>\n")
        end = literal("</function>\n")
        body = [mark("<tool_call>"), begin, *parts, end, mark("</tool_call>")]
        return self._rule(" ".join(body))

    def _parameters(self, function: Function, root: Object) -> list[str]:
        parts = []
        for key, node in root.properties.items():
            where = f"{function.name}.{key}"
            self._check(key, where)
            value = self._value(node, function.arguments, where)
            part = f"{literal(f'<parameter={key}>' + _LINE)} {value}"
            parts.append(part if key in root.required else f"({part})?")
        if root.rest is not None:
            value = self._value(root.rest, function.arguments, f"{function.name}.*")
            name = expression(_OTHER_NAME)
            if root.properties:
                name += f" & ~{expression('|'.join(map(exactly, root.properties)))}"
            head = f'"<parameter=" {self._terminal(name)} {literal(">" + _LINE)}'
            parts.append(f"({head} {value})*")
        return parts

    def _value(self, node: Node, schema: Schema, where: str) -> str:
        """A value with its closing tag."""
        options = _texts(node, schema, 0)
        if options is None:
            value = json_rule(Schema(root=node, definitions=schema.definitions))
            return self._rule(f"{value} {literal(_AFTER)}")
        written = [self._text(option, where) for option in options]
        return written[0] if len(written) == 1 else self._rule(" | ".join(written))

    def _text(self, node: Text | str, where: str) -> str:
        if isinstance(node, Text):
            inner = self._terminal(text_terminal(node, _END))
            return self._terminal(f"{inner} {literal(_AFTER)}")
        if _END in node:
            self.faults.append(f"{where}: a text that holds {_END}")
        return literal(f"{node}{_AFTER}")

    def _check(self, name: str, where: str) -> None:
        if not NAME.fullmatch(name):
            self.faults.append(f"{where}: {name!r} cannot be a name")

    def _rule(self, body: str) -> str:
        name = f"call_{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        return self.terminals.setdefault(body, f"CALL_{len(self.terminals)}")


_LINE = "\n"


def _texts(node: Node, schema: Schema, depth: int) -> list[Text | str] | None:
    """What texts a node allows; None where it allows more than texts."""
    match node:
        case Text():
            return [node]
        case Constant():
            values = [value for value in node.values if isinstance(value, str)]
            return list(values) if len(values) == len(node.values) else None
        case Reference() if depth <= _DEPTH:
            return _texts(schema.definitions[node.name], schema, depth + 1)
        case Either() if depth <= _DEPTH:
            found: list[Text | str] = []
            for option in node.options:
                inner = _texts(option, schema, depth + 1)
                if inner is None:
                    return None
                found += inner
            return found
    return None
