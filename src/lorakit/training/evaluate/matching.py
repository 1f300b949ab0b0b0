"""Are these the calls that were wanted? Compared as values under the schemas of their tools.

Numbers are equal by value: 5 and 5.0 are one number, as JSON and its schemas have it. Everything
else is equal only to what has its type: "5" is no 5 and 1 is no true, as whoever checks a call
against its schema refuses it. Strings are equal letter by letter, in Unicode's composed form. By
its schema an argument may be left out where it is null and not required, or is the default; a list
of unique items has no order.

The calls of one turn have no order either: none of them sees another's result. What is carried out
one after another, and where that matters, is compared with `ordered`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from lorakit.chat.calls import ToolCall, function_of

Schemas = Mapping[str, Mapping[str, Any]]  # of the parameters, by the tool's name
FaultKind = Literal["value", "type", "missing", "extra"]
_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A call that was wanted and what came in its place; either may be None.

    right, total: of its arguments, those that are wanted or given. faults: what is wrong with the
    others, by name: another value, the right one in a wrong type, missing, or not wanted.
    """

    expected: ToolCall | None
    got: ToolCall | None
    right: int = 0
    total: int = 0
    faults: tuple[tuple[str, FaultKind], ...] = ()

    @property
    def same_tool(self) -> bool:
        return self.expected is not None and self.got is not None \
            and self.expected.name == self.got.name  # fmt: skip

    @property
    def exact(self) -> bool:
        return self.same_tool and not self.faults


def schemas_of(tools: Sequence[Mapping[str, Any]]) -> Schemas:
    """The schemas of OpenAI function objects."""
    functions = [function_of(tool) for tool in tools]
    return {str(each.get("name")): each.get("parameters") or {} for each in functions}


def match_calls(
    expected: Sequence[ToolCall],
    got: Sequence[ToolCall],
    schemas: Schemas,
    *,
    ordered: bool = False,
) -> tuple[Pair, ...]:
    """Each wanted call with the one that is most like it, and then those that nobody wanted.

    First come those that are exact, then calls of the same tool with the most right arguments, and
    what is left over in its order. ordered: by their places alone.
    """
    if ordered:
        return tuple(compare(a, b, schemas) for a, b in zip_longest(expected, got))
    left = list(got)
    found: dict[int, Pair] = {}
    for wanted in (_is_exact, _is_same_tool):
        for place, call in enumerate(expected):
            pairs = [] if place in found else [compare(call, other, schemas) for other in left]
            fit = [(pair.right - len(pair.faults), -n) for n, pair in enumerate(pairs)
                   if wanted(pair)]  # fmt: skip
            if fit:
                number = -max(fit)[1]
                found[place] = pairs[number]
                del left[number]
    rest = iter(left)
    for place, call in enumerate(expected):
        if place not in found:
            found[place] = compare(call, next(rest, None), schemas)
    extra = (compare(None, call, schemas) for call in rest)
    return (*(found[place] for place in range(len(expected))), *extra)


def _is_exact(pair: Pair) -> bool:
    return pair.exact


def _is_same_tool(pair: Pair) -> bool:
    return pair.same_tool


def compare(expected: ToolCall | None, got: ToolCall | None, schemas: Schemas) -> Pair:
    """One call with another; arguments are compared where both are of the same tool."""
    if expected is None or got is None or expected.name != got.name:
        return Pair(expected=expected, got=got)
    schema = schemas.get(expected.name, {})
    kinds = list(_arguments(expected.arguments, got.arguments, schema, schema))
    faults = tuple((name, kind) for name, kind in kinds if kind is not None)
    return Pair(
        expected=expected,
        got=got,
        right=len(kinds) - len(faults),
        total=len(kinds),
        faults=faults,
    )


def _arguments(
    expected: Mapping[str, Any], got: Mapping[str, Any], schema: Any, root: Any
) -> Iterator[tuple[str, FaultKind | None]]:
    """Every key of either side, with what is wrong with it."""
    schema = _resolved(schema, root)
    known = schema.get("properties")
    known = known if isinstance(known, Mapping) else {}
    for name in (*expected, *(name for name in got if name not in expected)):
        inner = _resolved(known.get(name), root)
        a, b = expected.get(name, _ABSENT), got.get(name, _ABSENT)
        if a is _ABSENT or b is _ABSENT:
            there = b if a is _ABSENT else a
            if _says_nothing(there, name, inner, schema, root):
                if there is a:  # wanted, and as good as there
                    yield name, None
                continue
            yield name, "extra" if a is _ABSENT else "missing"
        elif same(a, b, inner, root):
            yield name, None
        else:
            yield name, "type" if _reads_alike(a, b) else "value"


def _says_nothing(value: Any, name: str, inner: Any, outer: Any, root: Any) -> bool:
    """Whether an argument may be left out: the default, or a null that is not required."""
    if "default" in inner and same(inner["default"], value, inner, root):
        return True
    required = outer.get("required")
    return value is None and not (isinstance(required, list) and name in required)


def same(a: Any, b: Any, schema: Any, root: Any) -> bool:
    """Whether two JSON values are one under a schema; root: what its references point into."""
    schema = _resolved(schema, root)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, str) and isinstance(b, str):
        return unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(kind is None for _, kind in _arguments(a, b, schema, root))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return _same_items(a, b, schema, root)
    return a is None and b is None


def _same_items(a: Sequence[Any], b: Sequence[Any], schema: Any, root: Any) -> bool:
    if len(a) != len(b):
        return False
    first, each = schema.get("prefixItems"), schema.get("items")
    if schema.get("uniqueItems") is True and not first:
        return all(any(same(x, y, each, root) for y in b) for x in a) and all(
            any(same(x, y, each, root) for x in a) for y in b
        )
    first = first if isinstance(first, list) else []
    inner = [*first[: len(a)], *[each] * (len(a) - len(first))]
    return all(same(x, y, s, root) for x, y, s in zip(a, b, inner, strict=True))


def _reads_alike(a: Any, b: Any) -> bool:
    """Whether two values are written alike, such as 5 and "5"."""
    return _written(a) == _written(b)


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _resolved(schema: Any, root: Any) -> Mapping[str, Any]:
    """What a reference within the root points at; {} for what is no schema."""
    for _ in range(8):  # references to references, and circles of them
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        target: Any = root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        schema = target
    return {}
