"""Checking a value against a JSON schema, as far as tool declarations use it.

Types (in either case, lists of them, `nullable`), enum, const, properties, required,
additionalProperties, items, prefixItems, bounds of numbers, strings and arrays, anyOf, oneOf,
allOf, not, and references within the schema. `pattern` and `format` are not checked: a pattern is
an expression from elsewhere that may take for ever. Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_DEPTH = 64
MAX_STEPS = 100_000  # alternatives multiply where schemas refer to themselves
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list, tuple),
    "null": (type(None),),
}
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "more than"),
    "exclusiveMaximum": (operator.lt, "less than"),
}
_SIZES = {
    str: ("minLength", "maxLength", "characters"),
    list: ("minItems", "maxItems", "items"),
    dict: ("minProperties", "maxProperties", "keys"),
}


def problems(value: Any, schema: Any, where: str, *, closed: bool = False) -> list[str]:
    """Every way in which a value does not fit, each with its place.

    closed: treat keys that the schema's properties do not name as faults, unless
    additionalProperties allows them.
    """
    return list(_Checker(schema).check(value, schema, where, closed, 0))


class _Checker:
    """One check against one root schema, which references point into."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.steps = 0

    def check(self, value: Any, schema: Any, where: str, closed: bool, depth: int) -> Iterator[str]:
        self.steps += 1
        if depth > MAX_DEPTH or self.steps > MAX_STEPS:
            yield f"{where}: the value or its schema is too deep or too complex to check"
            return
        if schema is False:
            yield f"{where}: not allowed"
        if not isinstance(schema, Mapping):
            return
        if "$ref" in schema:
            yield from self._reference(value, schema["$ref"], where, closed, depth)
        if value is None and schema.get("nullable") is True:
            return
        fault = _kind_fault(value, schema.get("type"))
        if fault:
            yield f"{where}: {fault}"
            return
        yield from _plain_faults(value, schema, where)
        if isinstance(value, Mapping):
            yield from self._object(value, schema, where, closed, depth)
        if isinstance(value, list | tuple):
            yield from self._array(value, schema, where, depth)
        yield from self._combined(value, schema, where, closed, depth)

    def _reference(
        self, value: Any, reference: Any, where: str, closed: bool, depth: int
    ) -> Iterator[str]:
        target = self.root
        if not isinstance(reference, str) or not reference.startswith("#"):
            yield f"{where}: the schema refers outside itself: {reference!r:.80}"
            return
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or name not in target:
                yield f"{where}: the schema has no {reference}"
                return
            target = target[name]
        yield from self.check(value, target, where, closed, depth + 1)

    def _object(
        self,
        value: Mapping[str, Any],
        schema: Mapping[str, Any],
        where: str,
        closed: bool,
        depth: int,
    ) -> Iterator[str]:
        known = schema.get("properties")
        known = known if isinstance(known, Mapping) else {}
        for name in _strings(schema.get("required")):
            if name not in value:
                yield f"{where}.{name}: required, but missing"
        others = schema.get("additionalProperties", not (closed and "$ref" not in schema))
        for name, item in value.items():
            if name in known:
                yield from self.check(item, known[name], f"{where}.{name}", False, depth + 1)
            elif others is False:
                expected = ", ".join(sorted(known)) or "no arguments"
                yield f"{where}.{name}: unknown; expected {expected}"
            else:
                yield from self.check(item, others, f"{where}.{name}", False, depth + 1)

    def _array(
        self, value: list[Any] | tuple[Any, ...], schema: Mapping[str, Any], where: str, depth: int
    ) -> Iterator[str]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        for i, item in enumerate(value):
            each = first[i] if i < len(first) else schema.get("items", True)
            yield from self.check(item, each, f"{where}[{i}]", False, depth + 1)

    def _combined(
        self, value: Any, schema: Mapping[str, Any], where: str, closed: bool, depth: int
    ) -> Iterator[str]:
        for part in _schemas(schema.get("allOf")):
            yield from self.check(value, part, where, False, depth + 1)
        for key in ("anyOf", "oneOf"):
            if key not in schema:
                continue
            fits = [self._fits(value, part, depth) for part in _schemas(schema[key])]
            if not any(fits):
                yield f"{where}: fits none of {key}"
            elif key == "oneOf" and sum(fits) > 1:
                yield f"{where}: fits more than one of oneOf"
        if "not" in schema and self._fits(value, schema["not"], depth):
            yield f"{where}: has the form that the schema excludes"

    def _fits(self, value: Any, schema: Any, depth: int) -> bool:
        return next(self.check(value, schema, "", False, depth + 1), None) is None


def _kind_fault(value: Any, kinds: Any) -> str:
    names = [str(kind).lower() for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind]
    if not names or any(_is_kind(value, name) for name in names):
        return ""
    return f"expected {' or '.join(names)}, found {_shown(value)}"


def _is_kind(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return name not in _KINDS or isinstance(value, _KINDS[name])


def _plain_faults(value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    choices = schema.get("enum")
    if isinstance(choices, list) and not any(_same(value, choice) for choice in choices):
        shown = ", ".join(map(_shown, choices[:20]))
        yield f"{where}: expected one of {shown}, found {_shown(value)}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{where}: expected {_shown(schema['const'])}, found {_shown(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        for key, (holds, words) in _BOUNDS.items():
            bound = schema.get(key)
            if _is_number(bound) and not holds(value, bound):
                yield f"{where}: expected {words} {bound}, found {_shown(value)}"
    for kind, (least, most, unit) in _SIZES.items():
        if isinstance(value, kind):
            low, high = schema.get(least), schema.get(most)
            if _is_number(low) and len(value) < low:
                yield f"{where}: expected at least {low} {unit}, found {len(value)}"
            if _is_number(high) and len(value) > high:
                yield f"{where}: expected at most {high} {unit}, found {len(value)}"


def _same(value: Any, choice: Any) -> bool:
    """JSON equality: 1 equals 1.0, and neither equals true."""
    return isinstance(value, bool) == isinstance(choice, bool) and bool(value == choice)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _schemas(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
