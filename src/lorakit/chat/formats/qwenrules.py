"""Which parameters of Qwen 3 Coder's calls are texts, and the rules of its calls.

A parameter is a text where its type allows nothing else but null. Texts stand as they are, up to
`</parameter>`, which they cannot hold; every other value is JSON. Where other values are allowed
too, a text that begins like one of them is a JSON string. Parameters stand in the order in which
they are declared, and others after them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lorakit.chat.constraints.expressions import exactly
from lorakit.chat.constraints.lark import expression, json_rule, literal
from lorakit.chat.constraints.nodes import (
    AnyValue,
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
_NULL = "null|None"
_LIKE_OTHERS = '(?s:[ \\t\\r\\n\\[{\\"0-9tfnTFN-].*)'  # the beginnings of other values
_BEGINS_LIKE_OTHERS = re.compile(_LIKE_OTHERS)
_ANYTHING = frozenset(("string", "null", "other"))
_ONE: frozenset[str] = frozenset()
_DEPTH = 8  # references and alternatives within each other


Kind = Literal["text", "optional", "other"]  # a text; a text or null; what else there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What the parameters of a function may be. others: those that are not declared."""

    declared: Mapping[str, Kind] = field(default_factory=dict)
    others: Kind = "other"

    def kind(self, key: str) -> Kind:
        return self.declared.get(key, self.others)


def texts_of(function: Mapping[str, Any]) -> Texts:
    """Those of an OpenAI function object."""
    schema = function.get("parameters")
    if not isinstance(schema, Mapping):
        return Texts()
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    return Texts(
        declared={str(key): _kind(inner, schema) for key, inner in properties.items()},
        others=_kind(schema.get("additionalProperties"), schema),
    )


def is_like_others(text: str) -> bool:
    """Whether a text begins like a value that is none."""
    return _BEGINS_LIKE_OTHERS.match(text) is not None


def _kind(schema: Any, root: Mapping[str, Any]) -> Kind:
    allowed = _allowed(schema, root, 0)
    if "string" not in allowed or not allowed <= {"string", "null"}:
        return "other"
    return "text" if allowed == {"string"} else "optional"


def _allowed(schema: Any, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    """Which of string, null and "other" a JSON schema allows."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return _ANYTHING
    kind = schema.get("type")
    found = _ANYTHING
    if kind is not None:
        kinds = kind if isinstance(kind, list) else [kind]
        found &= {_named(str(each).lower()) for each in kinds}
        if schema.get("nullable") is True:
            found |= {"null"}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        found &= {_kind_of(value) for value in values}
    if isinstance(schema.get("$ref"), str):
        found &= _allowed(_target(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found &= _ONE.union(*(_allowed(each, root, depth + 1) for each in schema[key]))
    for each in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        found &= _allowed(each, root, depth + 1)
    return found


def _named(kind: str) -> str:
    return kind if kind in ("string", "null") else "other"


def _kind_of(value: Any) -> str:
    return "string" if isinstance(value, str) else "null" if value is None else "other"


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    target: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or name not in target:
            return None
        target = target[name]
    return target


def calls(functions: Sequence[Function], close: str) -> tuple[str, str]:
    """An expression of one call, from behind its opening tag to its closing tag `close`, itself an
    expression, and the rules that it uses.

    Raises ParameterError for what the format cannot write, with the function and the path.
    """
    rules = _Rules()
    names = [rules.call(function, close) for function in functions]
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

    def call(self, function: Function, close: str) -> str:
        self._check(function.name, function.name)
        root = function.arguments.root
        parts = self._parameters(function, root) if isinstance(root, Object) else []
        begin = literal(f"\n<function={function.name}>\n")
        return self._rule(" ".join([begin, *parts, literal("</function>\n"), close]))

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
        texts, others = _separate(*_texts(node, schema, 0))
        never = _LIKE_OTHERS if others else _NULL if None in texts else ""
        written = [self._text(text, never, where) for text in texts]
        if others:
            value = json_rule(Schema(root=node, definitions=schema.definitions))
            written.append(f"{value} {literal(_AFTER)}")
        written = [each for each in written if each]
        return self._rule(" | ".join(written))

    def _text(self, node: Text | str | None, never: str, where: str) -> str:
        """A bare text, or null, with its closing tag; "" where it has to be JSON."""
        if isinstance(node, Text):
            body = text_terminal(node, _END)
            inner = self._terminal(f"{body} & ~{expression(never)}" if never else body)
            return self._terminal(f"{inner} {literal(_AFTER)}")
        if node is None:
            return literal(f"null{_AFTER}")
        others = never == _LIKE_OTHERS
        if others and (_END in node or is_like_others(node)):
            return ""
        if _END in node or (never and node in _NULL.split("|")):
            self.faults.append(f"{where}: the text {node!r:.80}")
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


def _texts(node: Node, schema: Schema, depth: int) -> tuple[list[Text | str | None], bool]:
    """What texts, and null, a node allows, and whether it allows other values too."""
    match node:
        case Text():
            return [node], False
        case AnyValue():
            return [Text()], True
        case Constant():
            values = [value for value in node.values if isinstance(value, str | None)]
            return list(values), len(values) < len(node.values)
        case Reference() if depth <= _DEPTH:
            return _texts(schema.definitions[node.name], schema, depth + 1)
        case Either() if depth <= _DEPTH:
            found = [_texts(option, schema, depth + 1) for option in node.options]
            texts = [text for inner, _ in found for text in inner]
            return texts, any(other for _, other in found)
    return [], True


def _separate(texts: list[Text | str | None], others: bool) -> tuple[list[Text | str | None], bool]:
    """null alone, or beside more than texts, is one of the other values."""
    if others or all(text is None for text in texts):
        return [text for text in texts if text is not None], others or None in texts
    return texts, False
