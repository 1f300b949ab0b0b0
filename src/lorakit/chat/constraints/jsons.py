"""Nodes as a JSON schema for llguidance's `%json`, which accepts what the nodes say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
    value = AnyValue() if any(map(_holds_any, (schema.root, *used.values()))) else None
    while value is not None:
        definitions[_name(value)], value = _any_value(value), value.inner
    return {**written, "$defs": definitions} if definitions else written


def _name(value: AnyValue) -> str:
    """Of its definition; those of schemas are d0, d1 and so on."""
    return f"any{value.levels}"


def _any_value(value: AnyValue) -> dict[str, Any]:
    """Any value, its numbers such as floats hold: "{}" would allow 1e999 too."""
    options: list[dict[str, Any]] = [{"type": ["string", "boolean", "null"]}, _number(Number())]
    if value.inner is not None:
        inner = _written(value.inner)
        options += [
            {"type": "array", "items": inner},
            {"type": "object", "additionalProperties": inner},
        ]
    return {"anyOf": options}


def _holds_any(node: Node | None) -> bool:
    return isinstance(node, AnyValue) or any(map(_holds_any, _parts(node)))


def _written(node: Node) -> dict[str, Any]:
    match node:
        case AnyValue():
            return {"$ref": f"#/$defs/{_name(node)}"}
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
    far = MAX_BOUND
    if node.multiple_of is not None and node.multiple_of % 1 and not node.whole:
        far //= 10 ** len(repr(node.multiple_of))  # a float has 15 digits in all
    low, above = _tighter(node.minimum, node.above, max)
    high, below = _tighter(node.maximum, node.below, min)
    low = -far if low is None and above is None else low
    high = far if high is None and below is None else high
    least, most = (low if above is None else above), (high if below is None else below)
    assert least is not None  # either is
    assert most is not None
    if not node.whole and math.trunc(least) == math.trunc(most):
        if above is not None and float(above).is_integer():
            low, above = above + _next_to(most - above), None
        if below is not None and float(below).is_integer():
            high, below = below - _next_to(below - least), None
    return _said(
        type="integer" if node.whole else "number",
        minimum=low,
        maximum=high,
        exclusiveMinimum=above,
        exclusiveMaximum=below,
        multipleOf=node.multiple_of,
    )


def _tighter(
    closed: float | None, excluded: float | None, choose: Callable[[float, float], float]
) -> tuple[float | None, float | None]:
    """The bound that says more, in its place of the two."""
    if closed is None or excluded is None:
        return closed, excluded
    return (None, excluded) if choose(closed, excluded) == excluded else (closed, None)


def _next_to(far: float) -> float:
    """How far from an excluded whole number a range begins whose other end is that far.

    llguidance forgets that a whole number is excluded where both ends have one whole part.
    """
    return min(1e-6, 10.0 ** math.floor(math.log10(far) - 1))


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
    if isinstance(node, Reference):
        yield node.name
    for part in _parts(node):
        yield from _references(part)


def _parts(node: Node | None) -> tuple[Node | None, ...]:
    """The nodes within a node."""
    match node:
        case Either():
            return node.options
        case Array():
            return (*node.first, node.rest)
        case Object():
            return (*node.properties.values(), node.rest)
        case _:
            return ()
