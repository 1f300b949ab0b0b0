"""Nodes combined: what two of them both allow, whether they overlap, whether a value fits.

Nothing here is said that is not exact: where one node cannot say what two allow together, a
ValueError says why. None stands for a node that allows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lorakit.chat.constraints.nodes import (
    AnyValue,
    Array,
    Constant,
    Either,
    Json,
    Node,
    Number,
    Object,
    Reference,
    Text,
)
from lorakit.chat.constraints.scalars import (
    apart,
    both_numbers,
    both_texts,
    number_fits,
    text_fits,
)

Resolve = Callable[[Reference], Node | None]  # None where it is not known yet
MAX_STEPS = 20_000  # alternatives multiply


class Combining:
    """Combining the nodes of one schema, within a budget of steps."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._steps = 0

    def both(self, one: Node | None, other: Node | None, depth: int = 0) -> Node | None:
        """What both allow."""
        self._step(depth)
        if one is None or other is None:
            return None
        if isinstance(other, AnyValue):
            return one
        if isinstance(one, AnyValue):
            return other
        if isinstance(one, Reference) or isinstance(other, Reference):
            return self._with_reference(one, other, depth)
        if isinstance(one, Constant) or isinstance(other, Constant):
            few, rest = (one, other) if isinstance(one, Constant) else (other, one)
            assert isinstance(few, Constant)
            return constant([value for value in few.values if self.fits(value, rest)])
        if isinstance(one, Either):
            return either([self.both(option, other, depth + 1) for option in one.options])
        if isinstance(other, Either):
            return either([self.both(one, option, depth + 1) for option in other.options])
        if isinstance(one, Text) and isinstance(other, Text):
            return both_texts(one, other)
        if isinstance(one, Number) and isinstance(other, Number):
            return both_numbers(one, other)
        if isinstance(one, Array) and isinstance(other, Array):
            return self._arrays(one, other, depth)
        if isinstance(one, Object) and isinstance(other, Object):
            return self._objects(one, other, depth)
        return None

    def _with_reference(self, one: Node, other: Node, depth: int) -> Node | None:
        if one == other:
            return one
        found = [self._resolve(n) if isinstance(n, Reference) else n for n in (one, other)]
        if None in found:
            raise ValueError("a $ref into itself with other keywords beside it")
        return self.both(found[0], found[1], depth + 1)

    def _arrays(self, one: Array, other: Array, depth: int) -> Array | None:
        least = max(one.least, other.least)
        limits = [n for n in (one.most, other.most) if n is not None]
        first: list[Node] = []
        for at in range(max(len(one.first), len(other.first))):
            item = self.both(_item(one, at), _item(other, at), depth + 1)
            if item is None:
                limits.append(at)
                break
            first.append(item)
        rest = self.both(one.rest, other.rest, depth + 1)
        return array(tuple(first), rest, least, min(limits, default=None))

    def _objects(self, one: Object, other: Object, depth: int) -> Object | None:
        required = one.required | other.required
        properties: dict[str, Node] = {}
        rest = self.both(one.rest, other.rest, depth + 1)
        for name in dict.fromkeys((*one.properties, *other.properties)):
            a = one.properties.get(name, one.rest)
            b = other.properties.get(name, other.rest)
            value = self.both(a, b, depth + 1)
            if value is not None:
                properties[name] = value
            elif name in required:
                return None
            elif rest is not None:
                raise ValueError(f"{name} may not be there, but other names may")
        return Object(properties=properties, required=required, rest=rest)

    def may_overlap(self, one: Node | None, other: Node | None) -> bool:
        """Whether a value may fit both; True where that is not certain, or takes too long."""
        if one is None or other is None:
            return False
        try:
            return self.overlap(one, other)
        except ValueError:
            return True

    def overlap(self, one: Node, other: Node, depth: int = 0) -> bool:
        """Whether a value may fit both; True where that is not certain."""
        self._step(depth)
        if isinstance(one, Reference):
            one = self._resolve(one) or AnyValue()
        if isinstance(other, Reference):
            other = self._resolve(other) or AnyValue()
        if isinstance(one, Reference) or isinstance(other, Reference):
            return True
        if isinstance(one, AnyValue) or isinstance(other, AnyValue):
            return True
        for a, b in ((one, other), (other, one)):
            if isinstance(a, Either):
                return any(self.overlap(option, b, depth + 1) for option in a.options)
            if isinstance(a, Constant):
                return any(self._may_fit(value, b) for value in a.values)
        if isinstance(one, Text) and isinstance(other, Text):
            return _ranges_meet((one.least, one.most), (other.least, other.most))
        if isinstance(one, Number) and isinstance(other, Number):
            return not apart(one, other)
        if isinstance(one, Array) and isinstance(other, Array):
            return self._arrays_overlap(one, other, depth)
        if isinstance(one, Object) and isinstance(other, Object):
            return self._objects_overlap(one, other, depth)
        return False

    def _arrays_overlap(self, one: Array, other: Array, depth: int) -> bool:
        if not _ranges_meet((one.least, one.most), (other.least, other.most)):
            return False
        for at in range(min(max(one.least, other.least), 64)):
            a, b = _item(one, at), _item(other, at)
            if a is None or b is None or not self.overlap(a, b, depth + 1):
                return False
        return True

    def _objects_overlap(self, one: Object, other: Object, depth: int) -> bool:
        for name in sorted(one.required | other.required):
            a = one.properties.get(name, one.rest)
            b = other.properties.get(name, other.rest)
            if a is None or b is None or not self.overlap(a, b, depth + 1):
                return False
        return True

    def _may_fit(self, value: Json, node: Node) -> bool:
        try:
            return self.fits(value, node)
        except ValueError:
            return True

    def fits(self, value: Json, node: Node | None, depth: int = 0) -> bool:
        """Whether a value fits a node. Raises ValueError where that is not said."""
        self._step(depth)
        if isinstance(node, Reference):
            node = self._resolve(node)
            if node is None:
                raise ValueError("constants beside a $ref into itself")
        if node is None:
            return False
        if isinstance(node, AnyValue):
            return True
        if isinstance(node, Constant):
            return any(same(value, choice) for choice in node.values)
        if isinstance(node, Either):
            return any(self.fits(value, option, depth + 1) for option in node.options)
        if isinstance(value, str) and isinstance(node, Text):
            fits = text_fits(value, node)
            if fits is None:
                raise ValueError("constants beside a pattern or a format")
            return fits
        if is_number(value) and isinstance(node, Number):
            assert isinstance(value, int | float)
            return number_fits(value, node)
        if isinstance(value, list) and isinstance(node, Array):
            sized = node.least <= len(value) and (node.most is None or len(value) <= node.most)
            return sized and all(
                self.fits(item, _item(node, at), depth + 1) for at, item in enumerate(value)
            )
        if isinstance(value, dict) and isinstance(node, Object):
            return node.required <= value.keys() and all(
                self.fits(item, node.properties.get(name, node.rest), depth + 1)
                for name, item in value.items()
            )
        return False

    def _step(self, depth: int) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS or depth > 64:
            raise ValueError("too many alternatives to combine")


def either(options: list[Node | None]) -> Node | None:
    """What one of some nodes allows; None where none allows anything."""
    found: dict[str, Node] = {}
    for option in options:
        for node in option.options if isinstance(option, Either) else (option,):
            if node is not None:
                found.setdefault(repr(node), node)  # which equal nodes share
    nodes = tuple(found.values())
    if any(isinstance(node, AnyValue) for node in nodes):
        return AnyValue()
    return Either(options=nodes) if len(nodes) > 1 else next(iter(nodes), None)


def constant(values: list[Json]) -> Constant | None:
    """One of some values, each once; None where there is none."""
    keys: dict[str, Json] = {}
    for value in values:
        keys.setdefault(_key(value), value)
    return Constant(values=tuple(keys.values())) if keys else None


def array(first: tuple[Node, ...], rest: Node | None, least: int, most: int | None) -> Array | None:
    """An array whose limits say what its items allow; None where nothing fits."""
    if rest is None:
        most = len(first) if most is None else min(most, len(first))
    if most is not None:
        if least > most:
            return None
        first = first[:most]
        rest = None if len(first) >= most else rest
    return Array(first=first, rest=rest, least=least, most=most)


def same(one: Json, other: Json) -> bool:
    """JSON equality: 1 equals 1.0, and neither equals true."""
    return _key(one) == _key(other)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: Json) -> str:
    """A text that equal values share."""
    if isinstance(value, Mapping):
        inner = ",".join(f"{name!r}:{_key(value[name])}" for name in sorted(value))
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_key, value))}]"
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return repr(value)


def _item(node: Array, at: int) -> Node | None:
    return node.first[at] if at < len(node.first) else node.rest


def _ranges_meet(one: tuple[int, int | None], other: tuple[int, int | None]) -> bool:
    most = [n for n in (one[1], other[1]) if n is not None]
    return not most or max(one[0], other[0]) <= min(most)
