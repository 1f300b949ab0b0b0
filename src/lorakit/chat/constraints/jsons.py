"""Nodes as a JSON schema for llguidance's `%json`, which accepts what the nodes say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lorakit.chat.constraints.expressions import searched
from lorakit.chat.constraints.nodes import (
    AnyValue,
    Array,
    Constant,
    Either,
    Node,
    Number,
    Object,
    Reference,
    Schema,
    Text,
)
from lorakit.chat.constraints.scalars import MAX_BOUND


def to_json_schema(schema: Schema) -> dict[str, Any]:
    """The schema as JSON Schema 2020-12, keys in the nodes' order; never with oneOf or allOf.

    Definitions that nothing names are left out.
    """
    written = _written(schema.root)
    used: dict[str, Node] = {}
    waiting = list(_references(schema.root))
    while waiting:
        name = waiting.pop(0)
        if name not in used:
            used[name] = schema.definitions[name]
            waiting += _references(used[name])
    definitions = {name: _written(node) for name, node in used.items()}
    return {**written, "$defs": definitions} if definitions else written


def _written(node: Node) -> dict[str, Any]:
    match node:
        case AnyValue():
            return {}
        case Constant():
            return {"enum": list(node.values)}
        case Either():
            return {"anyOf": [_written(option) for option in node.options]}
        case Reference():
            return {"$ref": f"#/$defs/{node.name}"}
        case Text():
            return _said(
                type="string",
                minLength=node.least or None,
                maxLength=node.most,
                pattern=None if node.pattern is None else f"^(?:{searched(node.pattern)})$",
                format=node.format,
            )
        case Number():
            return _number(node)
        case Array():
            return _array(node)
        case Object():
            return _object(node)


def _number(node: Number) -> dict[str, Any]:
    """A number between -2^53 and 2^53 where a bound is not said: digits would never have to end,
    and an exponent may make what no float holds."""
    low = -MAX_BOUND if node.minimum is None and node.above is None else node.minimum
    high = MAX_BOUND if node.maximum is None and node.below is None else node.maximum
    return _said(
        type="integer" if node.whole else "number",
        minimum=low,
        maximum=high,
        exclusiveMinimum=node.above,
        exclusiveMaximum=node.below,
        multipleOf=node.multiple_of,
    )


def _array(node: Array) -> dict[str, Any]:
    first = [_written(item) for item in node.first]
    return _said(
        type="array",
        prefixItems=first or None,
        items=False if node.rest is None else _written(node.rest),
        minItems=node.least or None,
        maxItems=node.most,
    )


def _object(node: Object) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _written(inner) for name, inner in node.properties.items()},
        "required": [name for name in node.properties if name in node.required],
        "additionalProperties": False if node.rest is None else _written(node.rest),
    }


def _said(**keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}


def _references(node: Node | None) -> Iterator[str]:
    """The definitions that a node names."""
    match node:
        case Reference():
            yield node.name
        case Either():
            inner: tuple[Node | None, ...] = node.options
        case Array():
            inner = (*node.first, node.rest)
        case Object():
            inner = (*_values(node.properties), node.rest)
        case _:
            return
    if not isinstance(node, Reference):
        for part in inner:
            yield from _references(part)


def _values(nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    return tuple(nodes.values())
