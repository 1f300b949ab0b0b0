"""The filters that a template may use, each with its cost.

Those that read a list item by item give a cursor over a finished list, where Jinja gives a
generator: what a template sees of both is the same, and the work is drawn for in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import markupsafe
from jinja2 import filters, pass_context, pass_environment
from jinja2.environment import Environment
from jinja2.exceptions import FilterArgumentError
from jinja2.runtime import Context, Undefined
from markupsafe import Markup

from lorakit.chat.sandbox import budget, methods
from lorakit.chat.sandbox.budget import (
    OBJECT,
    SEQUENCES,
    Cursor,
    LimitError,
    check_integer,
    check_key,
    items_of,
    made,
    make_items,
    make_text,
    no_iteration,
    read,
    release,
    spend,
    weigh,
    width,
)
from lorakit.chat.sandbox.formatting import percent
from lorakit.chat.sandbox.listed import table
from lorakit.chat.sandbox.operators import ESCAPED, binary
from lorakit.chat.sandbox.writing import JsonWriter, to_text

MAX_DIGITS = 1024  # characters of a number to read
MAX_PRECISION = 300  # decimal places to round to
MAX_PATH = 16  # steps of an attribute's path, as in "function.name"
Getter = Callable[[Any], Any]


def _texted(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of texts as a filter, which takes other values by their text."""

    def filtered(value: Any, /, *args: Any) -> Any:
        return method(to_text(value), *args)

    return filtered


def _numeric(value: Any) -> Any:
    if isinstance(value, int | float | Undefined):
        return value
    raise TypeError(f"expected a number, found {type(value).__name__}")


def _abs(value: Any, /) -> Any:
    spend(1)
    return abs(_numeric(value))


def _default(value: Any, default_value: Any = "", boolean: Any = False) -> Any:
    spend(1)
    return filters.do_default(value, default_value, boolean)


def _escape(value: Any, /) -> Markup:
    if isinstance(value, Markup):
        return value
    text = to_text(value)
    drawn = make_text(len(text) * ESCAPED, width(text))
    result = markupsafe.escape(text)
    made(drawn, result)
    return result


def _safe(value: Any, /) -> Markup:
    text = to_text(value)
    make_text(len(text), width(text))
    return Markup(text)


@pass_environment
def _first(environment: Environment, value: Any, /) -> Any:
    spend(1)
    if not isinstance(value, (SEQUENCES, Cursor)):
        no_iteration(value)
    make_text(1, 4)
    return filters.sync_do_first(environment, value)


@pass_environment
def _last(environment: Environment, value: Any, /) -> Any:
    spend(1)
    if not isinstance(value, SEQUENCES):
        raise TypeError(f"'{type(value).__name__}' object is not reversible")
    make_text(1, 4)
    return filters.do_last(environment, value)


def _float(value: Any, default: Any = 0.0) -> Any:
    return filters.do_float(_readable(value), default)


def _int(value: Any, default: Any = 0, base: Any = 10) -> Any:
    result = filters.do_int(_readable(value), default, base)
    if isinstance(result, int):
        check_integer(result.bit_length())
    return result


def _readable(value: Any) -> Any:
    """What int and float are given: a number as it is, a text that is not too long."""
    spend(1)
    if isinstance(value, str) and len(value) > MAX_DIGITS:
        raise LimitError(f"a number of {len(value)} characters")
    return value if isinstance(value, str | int | float | Undefined) else None


def _format(value: Any, /, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise FilterArgumentError("can't handle positional and keyword arguments together")
    return percent(to_text(value), kwargs or args)


def _indent(s: Any, width: Any = 4, first: Any = False, blank: Any = False) -> str:
    text = s if isinstance(s, str) else to_text(s)
    prefix = len(width) if isinstance(width, str) else width
    if not isinstance(prefix, int):
        raise TypeError(f"a width is a number or a text, not {type(width).__name__}")
    lines = methods.line_count(text) + 1
    wide = max(budget.width(text), budget.width(width) if isinstance(width, str) else 1)
    length = len(text) + lines * (1 + max(prefix, 0))
    parts = make_text(length, wide) + make_items(lines, 3 * OBJECT)
    drawn = make_text(length, wide)
    result = filters.do_indent(text, width, first, blank)
    release(parts)
    return made(drawn, result)


def _items(value: Any, /) -> Any:
    if isinstance(value, Undefined):
        return iter([])
    if not isinstance(value, dict):
        raise TypeError("Can only get item pairs from a mapping.")
    return iter(items_of(value.items()))


@pass_environment
def _join(environment: Environment, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = items_of(value)
    if attribute is not None:
        get = _getter(environment, attribute)
        items = [get(item) for item in items]
    return methods.join(str(to_text(d)), [to_text(item) for item in items])


def _length(value: Any, /) -> int:
    spend(1)
    return len(value)


def _list(value: Any, /) -> list[Any]:
    return items_of(value)


@pass_context
def _map(context: Context, value: Any, /, *args: Any, **kwargs: Any) -> Any:
    _check_name(args)
    _check_path(kwargs.get("attribute"))
    return _finished(filters.sync_do_map(context, _given(value), *args, **kwargs))


def _selection(select: Callable[..., Iterable[Any]], *, by_path: bool) -> Callable[..., Any]:
    @pass_context
    def filtered(context: Context, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        if by_path and args:
            _check_path(args[0])
        _check_name(args[1:] if by_path else args)
        return _finished(select(context, _given(value), *args, **kwargs))

    return filtered


def _given(value: Any) -> list[Any]:
    """The items of a value; these filters take anything false for an empty list."""
    return items_of(value) if value else []


def _check_name(args: tuple[Any, ...]) -> None:
    """The name of a filter or test to apply; any other value would be hashed."""
    if args and not isinstance(args[0], str | Undefined):
        raise TypeError(f"expected the name of a filter or test, found {type(args[0]).__name__}")


def _check_path(attribute: Any) -> None:
    """An attribute's path has few steps, since it is walked for every item."""
    if isinstance(attribute, str) and attribute.count(".") >= MAX_PATH:
        raise LimitError(f"the attribute {attribute[:40]!r}... of more than {MAX_PATH} steps")
    if not isinstance(attribute, str | int | None | Undefined):
        raise TypeError(f"an attribute is a name or a number, not {type(attribute).__name__}")


def _finished(items: Iterable[Any]) -> Any:
    """A generator's items, as a cursor; there are no more than were drawn for."""
    return iter(list(items))


def _getter(environment: Environment, attribute: Any) -> Getter:
    _check_path(attribute)
    return filters.make_attrgetter(environment, attribute)


def _keys(environment: Environment, items: list[Any], attribute: Any, case: Any) -> list[Any]:
    """What items are compared by, drawn for as many comparisons as sorting makes."""
    make_items(len(items))
    get = _getter(environment, attribute)
    keys = [get(item) for item in items]
    if not case:
        keys = [_LOWER(key) if isinstance(key, str) else key for key in keys]
    _compare_all(keys)
    return keys


def _compare_all(keys: list[Any]) -> None:
    """Draw for as many comparisons as sorting makes."""
    rounds = 2 * len(keys).bit_length()
    for key in keys:
        spend(weigh(key) * rounds)


_LOWER = methods.METHODS[str]["lower"]


@pass_environment
def _sort(
    environment: Environment,
    value: Any,
    reverse: Any = False,
    case_sensitive: Any = False,
    attribute: Any = None,
) -> list[Any]:
    items = items_of(value)
    order = list(range(len(items)))
    names = attribute.split(",") if isinstance(attribute, str) else [attribute]
    if len(names) > MAX_PATH:
        raise LimitError(f"more than {MAX_PATH} attributes to sort by")
    for name in reversed(names):  # stable: the first name decides last
        keys = _keys(environment, items, name, case_sensitive)
        order.sort(key=lambda index: (keys[index],), reverse=bool(reverse))
    return [items[index] for index in order]


def _dictsort(
    value: Any, case_sensitive: Any = False, by: Any = "key", reverse: Any = False
) -> list[Any]:
    if by not in ("key", "value"):
        raise FilterArgumentError('You can only sort by either "key" or "value"')
    if not isinstance(value, dict):
        raise TypeError(f"dictsort needs a mapping, found {type(value).__name__}")
    pairs = items_of(value.items())
    place = 0 if by == "key" else 1
    keys = [pair[place] for pair in pairs]
    if not case_sensitive:
        keys = [_LOWER(key) if isinstance(key, str) else key for key in keys]
    _compare_all(keys)
    order = sorted(range(len(pairs)), key=keys.__getitem__, reverse=bool(reverse))
    return [pairs[index] for index in order]


def _extreme(choose: Callable[..., int]) -> Callable[..., Any]:
    @pass_environment
    def filtered(
        environment: Environment, value: Any, case_sensitive: Any = False, attribute: Any = None
    ) -> Any:
        items = items_of(value)
        if not items:
            return environment.undefined("No aggregated item, sequence was empty.")
        keys = _keys(environment, items, attribute, case_sensitive)
        return items[choose(range(len(items)), key=keys.__getitem__)]

    return filtered


@pass_environment
def _unique(
    environment: Environment, value: Any, case_sensitive: Any = False, attribute: Any = None
) -> Any:
    items = items_of(value)
    get = _getter(environment, attribute)
    make_items(len(items), OBJECT)
    seen: dict[Any, Any] = {}
    for item in items:
        key = get(item)
        key = _LOWER(key) if isinstance(key, str) and not case_sensitive else key
        check_key(key)
        seen.setdefault(key, item)
    return iter(list(seen.values()))


def _reverse(value: Any, /) -> Any:
    if isinstance(value, str):
        make_text(len(value), width(value))
        return value[::-1]
    return iter(items_of(value)[::-1])


def _round(value: Any, precision: Any = 0, method: Any = "common") -> Any:
    spend(1)
    if not isinstance(method, str):
        raise TypeError(f"a method is a name, not {type(method).__name__}")
    if not isinstance(precision, int) or abs(precision) > MAX_PRECISION:
        raise LimitError("round to a very large number of places")
    return filters.do_round(_numeric(value), precision, cast(Any, method))


@pass_environment
def _sum(environment: Environment, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    total = _numeric(start)
    get = _getter(environment, attribute)
    for item in items_of(iterable):
        total = binary("+", total, _numeric(get(item)))
    return total


def _title(value: Any, /) -> str:
    text = to_text(value)
    for _ in range(4):  # a list of the words, twice, and their text
        read(text)
    make_items(len(text), OBJECT)
    return made(make_text(len(text) * 3, 4), filters.do_title(text))


def _to_json(
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> str:
    return JsonWriter(ensure_ascii, indent, separators, sort_keys).write(value)


def _replace(s: Any, old: Any, new: Any, count: Any = None) -> str:
    return methods.replace(
        str(to_text(s)), to_text(old), to_text(new), -1 if count is None else count
    )


_TEXT = methods.METHODS[str]
LISTED: Mapping[str, Callable[..., Any]] = {
    "abs": _abs,
    "capitalize": _texted(_TEXT["capitalize"]),
    "count": _length,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "e": _escape,
    "escape": _escape,
    "first": _first,
    "float": _float,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": _length,
    "list": _list,
    "lower": _texted(_LOWER),
    "map": _map,
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _selection(filters.sync_do_reject, by_path=False),
    "rejectattr": _selection(filters.sync_do_rejectattr, by_path=True),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": _safe,
    "select": _selection(filters.sync_do_select, by_path=False),
    "selectattr": _selection(filters.sync_do_selectattr, by_path=True),
    "sort": _sort,
    "string": to_text,
    "sum": _sum,
    "title": _title,
    "tojson": _to_json,
    "trim": _texted(_TEXT["strip"]),
    "unique": _unique,
    "upper": _texted(_TEXT["upper"]),
}

FILTERS = table("filter", LISTED, filters.FILTERS)
