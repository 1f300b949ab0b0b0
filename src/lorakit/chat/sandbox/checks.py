"""The tests that a template may make (`is defined`), each with its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import tests
from jinja2.runtime import LoopContext, Macro, Undefined
from markupsafe import Markup

from lorakit.chat.sandbox.budget import read, spend
from lorakit.chat.sandbox.listed import Global, Method, table
from lorakit.chat.sandbox.operators import binary, compare
from lorakit.chat.sandbox.writing import to_text


def _of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test that takes the same time for any value."""

    def tested(value: Any, /) -> bool:
        spend(1)
        return test(value)

    return tested


def _compared(name: str) -> Callable[[Any, Any], bool]:
    def tested(value: Any, other: Any, /) -> bool:
        return compare(value, name, other)

    return tested


def _cased(ask: Callable[[str], bool]) -> Callable[[Any], bool]:
    def tested(value: Any, /) -> bool:
        text = to_text(value)
        read(text)
        return ask(text)

    return tested


def _divisible(value: Any, by: Any, /) -> bool:
    return bool(binary("%", _number(value), _number(by)) == 0)


def _number(value: Any) -> Any:
    if isinstance(value, int | float | Undefined):
        return value
    raise TypeError(f"expected a number, found {type(value).__name__}")


def _same(value: Any, other: Any, /) -> bool:
    spend(1)
    return value is other


def _is_sequence(value: Any) -> bool:
    return isinstance(value, str | list | tuple | dict | range | Undefined)


LISTED: Mapping[str, Callable[..., bool]] = {
    "boolean": _of(lambda value: isinstance(value, bool)),
    "callable": _of(lambda value: isinstance(value, Method | Global | Macro | LoopContext)),
    "defined": _of(lambda value: not isinstance(value, Undefined)),
    "divisibleby": _divisible,
    "escaped": _of(lambda value: isinstance(value, Markup)),
    "even": lambda value: _divisible(value, 2),
    "false": _of(lambda value: value is False),
    "float": _of(lambda value: isinstance(value, float)),
    "integer": _of(lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "iterable": _of(tests.test_iterable),
    "lower": _cased(str.islower),
    "mapping": _of(lambda value: isinstance(value, dict)),
    "none": _of(lambda value: value is None),
    "number": _of(lambda value: isinstance(value, int | float)),
    "odd": lambda value: not _divisible(value, 2),
    "sameas": _same,
    "sequence": _of(_is_sequence),
    "string": _of(lambda value: isinstance(value, str)),
    "true": _of(lambda value: value is True),
    "undefined": _of(lambda value: isinstance(value, Undefined)),
    "upper": _cased(str.isupper),
    "in": _compared("in"),
    **dict.fromkeys(("==", "eq", "equalto"), _compared("eq")),
    **dict.fromkeys(("!=", "ne"), _compared("ne")),
    **dict.fromkeys((">", "gt", "greaterthan"), _compared("gt")),
    **dict.fromkeys((">=", "ge"), _compared("gteq")),
    **dict.fromkeys(("<", "lt", "lessthan"), _compared("lt")),
    **dict.fromkeys(("<=", "le"), _compared("lteq")),
}

TESTS = table("test", LISTED, tests.TESTS)
