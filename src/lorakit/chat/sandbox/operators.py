"""The operators of templates: arithmetic, comparison, membership, slices, literals.

Each draws in proportion to what it will do before it does it. Equality walks both values in step,
as Python does, so that it costs what the comparison really looks at.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from markupsafe import Markup

from lorakit.chat.sandbox.budget import (
    MAX_INTEGER,
    OBJECT,
    SEQUENCES,
    Cursor,
    Views,
    allocate,
    check_depth,
    check_integer,
    check_key,
    is_undefined,
    items_of,
    make_items,
    make_text,
    search_cost,
    spend,
    weigh,
    width,
)
from lorakit.chat.sandbox.formatting import percent
from lorakit.chat.sandbox.writing import to_text

ESCAPED = 6  # characters that escaping may make of one
_Number = int | float
_ORDERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}


def compare(left: Any, name: str, right: Any) -> bool:
    """One comparison by jinja's name for it."""
    if name == "eq":
        return equal(left, right)
    if name == "ne":
        return not equal(left, right)
    if name == "in":
        return contains(right, left)
    if name == "notin":
        return not contains(right, left)
    return ordered(name, left, right)


def equal(left: Any, right: Any) -> bool:
    """`==`. Parts that are the same value are equal without a look, as in Python."""
    if not (_is_container(left) and _is_container(right)):
        return _equal_plain(left, right)
    stack: list[Iterator[tuple[Any, Any]]] = [iter(((left, right),))]
    while stack:
        for one, other in stack[-1]:
            spend(1)
            if one is other:
                continue
            if not (_is_container(one) and _is_container(other)):
                if _equal_plain(one, other):
                    continue
                return False
            if not _same_shape(one, other):
                return False
            check_depth(len(stack))
            stack.append(_pairs(one, other))
            break
        else:
            stack.pop()
    return True


def _is_container(value: object) -> bool:
    return isinstance(value, list | tuple | dict)


def _same_shape(one: Any, other: Any) -> bool:
    return type(one) is type(other) and len(one) == len(other)


def _pairs(one: Any, other: Any) -> Iterator[tuple[Any, Any]]:
    """What must be equal for both to be: items by place, or values by key."""
    return _valued(one, other) if isinstance(one, dict) else zip(one, other, strict=True)


def _valued(one: Any, other: Any) -> Iterator[tuple[Any, Any]]:
    missing = object()
    for key, value in one.items():
        check_key(key)
        yield value, other.get(key, missing)


def _equal_plain(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        spend(1 + (len(one) >> 6) if len(one) == len(other) else 1)
    elif isinstance(one, Views) or isinstance(other, Views):
        weigh(one)
        weigh(other)
    else:
        spend(1)
    return bool(one == other)


def ordered(name: str, left: Any, right: Any) -> bool:
    """`<`, `<=`, `>` and `>=`, of numbers, texts, and lists of them."""
    if isinstance(left, str) and isinstance(right, str):
        spend(1 + (min(len(left), len(right)) >> 6))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        weigh(left)
        weigh(right)
    elif not (_are_numbers(left, right) or is_undefined(left) or is_undefined(right)):
        raise TypeError(
            f"values of the types {type(left).__name__} and {type(right).__name__} have no order"
        )
    return bool(_ORDERS[name](left, right))


def contains(container: Any, item: Any) -> bool:
    """`item in container`."""
    spend(1)
    if isinstance(container, str):
        if isinstance(item, str):
            spend(search_cost(len(container), len(item)))
        return item in container
    if isinstance(container, (dict, Views[0])):
        check_key(item)
        return item in container
    if isinstance(container, range) and isinstance(item, int):
        return item in container
    if is_undefined(container):
        return item in container
    if isinstance(container, (SEQUENCES, Cursor)):
        return any(part is item or equal(part, item) for part in container)
    raise TypeError(f"argument of type '{type(container).__name__}' is not iterable")


def chained(left: Any, *rest: Any) -> bool:
    """`a < b < c`: rest has jinja's names and the operands in turn."""
    for name, right in zip(rest[::2], rest[1::2], strict=True):
        if not compare(left, name, right):
            return False
        left = right
    return True


def binary(name: str, left: Any, right: Any) -> Any:
    """An operator of two operands."""
    spend(1)
    if _are_numbers(left, right):
        return _arithmetic(name, left, right)
    if name == "+" and isinstance(left, str) and isinstance(right, str):
        return _added(left, right)
    if name == "+" and type(left) is type(right) and isinstance(left, list | tuple):
        make_items(len(left) + len(right))
        return left + right
    if name == "*":
        return _repeated(left, right)
    if name == "%" and isinstance(left, str):
        return percent(left, right)
    if isinstance(left, Views) or isinstance(right, Views):  # sets, in Python
        raise TypeError(f"unsupported operand type(s) for {name}: views of an object")
    return _ARITHMETIC[name](left, right)  # raises what Python raises


def _are_numbers(left: Any, right: Any) -> bool:
    return isinstance(left, _Number) and isinstance(right, _Number)


_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}


def _arithmetic(name: str, left: Any, right: Any) -> Any:
    allocate(OBJECT)
    if isinstance(left, int) and isinstance(right, int):
        bits, others = left.bit_length(), right.bit_length()
        check_integer(bits)
        check_integer(others)
        if name == "**":
            check_integer(bits * max(right, 1))
            allocate(MAX_INTEGER >> 3)
        elif name in ("*", "+", "-"):
            check_integer(bits + others if name == "*" else max(bits, others) + 1)
            allocate((bits + others) >> 3)
    result = _ARITHMETIC[name](left, right)
    if not isinstance(result, _Number):
        raise ValueError("a complex number")
    return result


def _added(left: str, right: str) -> str:
    safe = isinstance(left, Markup) or isinstance(right, Markup)
    length = len(left) + len(right)
    make_text(length * ESCAPED if safe else length, max(width(left), width(right)))
    return left + right


def _repeated(left: Any, right: Any) -> Any:
    """A text or list several times. What is neither is left to Python to refuse."""
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, str) and isinstance(right, int):
        make_text(len(left) * max(right, 0), width(left))
    elif isinstance(left, list | tuple) and isinstance(right, int):
        make_items(len(left) * max(right, 0))
    return left * right


def concatenate(*values: Any) -> str:
    """The operator `~`."""
    parts = [to_text(value) for value in values]
    make_text(sum(map(len, parts)), max(map(width, parts)))
    return "".join(parts)


def sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """`value[start:stop:step]`."""
    spend(1)
    part = slice(start, stop, step)
    if isinstance(value, str | list | tuple | range):
        length = len(range(*part.indices(len(value))))
        if isinstance(value, str):
            make_text(length, width(value))
        elif not isinstance(value, range):
            make_items(length)
    elif not is_undefined(value):
        raise TypeError(f"'{type(value).__name__}' object cannot be sliced")
    return value[part]


def make_list(_: None, *items: Any) -> list[Any]:
    make_items(len(items))
    return list(items)


def make_tuple(_: None, *items: Any) -> tuple[Any, ...]:
    make_items(len(items))
    return items


def make_dict(_: None, *flat: Any) -> dict[Any, Any]:
    """A dict display: keys and values in turn."""
    make_items(len(flat), OBJECT)
    for key in flat[::2]:
        check_key(key)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def spread(value: Any) -> Any:
    """What stands after * or ** in a call."""
    if isinstance(value, dict):
        make_items(len(value), OBJECT)
        return value
    return items_of(value)


def to_dict(*pairs: Any, **named: Any) -> dict[Any, Any]:
    """The global `dict`."""
    make_items(len(named), OBJECT)
    if not pairs:
        return named
    (given,) = pairs
    if isinstance(given, dict):
        make_items(len(given), OBJECT)
        return {**given, **named}
    parts = [tuple(items_of(pair)) for pair in items_of(given)]
    make_items(len(parts), OBJECT)
    for key, _ in parts:
        check_key(key)
    return dict(chain(parts, named.items()))


def made_once(size: int) -> None:
    """A macro or a loop, which a template may keep."""
    spend(1)
    allocate(size)


def tick(weight: int) -> None:
    """A turn of a loop or macro, with what its body does beside operators and calls."""
    spend(weight)
