"""The methods that a template may call, by the type that has them, each with its cost.

A method is not the value's own: it is a function here that draws for the work and the result, and
then calls Python's. What is not in METHODS cannot be called, whatever Python adds to its types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2.runtime import LoopContext
from markupsafe import Markup

from lorakit.chat.sandbox.budget import (
    OBJECT,
    LimitError,
    Views,
    check_key,
    items_of,
    made,
    make_items,
    make_text,
    read,
    release,
    reverse_cost,
    search_cost,
    spend,
    width,
)
from lorakit.chat.sandbox.formatting import braces
from lorakit.chat.sandbox.listed import forbidden
from lorakit.chat.sandbox.operators import equal

MAX_STRIPPED = 1000  # different characters that strip may be given
_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # where splitlines ends a line
_SPACES = "".join(char for char in map(chr, range(0x3001)) if char.isspace())  # 10 are ASCII
_CASE_GROWTH = 3  # characters that a change of case may make of one


def changed_case(change: Callable[[Any], str]) -> Callable[[str], str]:
    def method(text: str) -> str:
        if text.isascii():
            make_text(len(text), 1)
            return change(text)
        return made(make_text(len(text) * _CASE_GROWTH, 4), change(text))

    return method


def _asked(ask: Callable[[str], bool]) -> Callable[[str], bool]:
    def method(text: str) -> bool:
        read(text)
        return ask(text)

    return method


def _stripped(strip: Callable[[Any, Any], str]) -> Callable[..., str]:
    def method(text: str, chars: Any = None, /) -> str:
        if isinstance(chars, str):
            if len(chars) > MAX_STRIPPED:
                raise LimitError(f"strip of {len(chars)} different characters")
            spend(len(text) * len(chars) >> 10)
        make_text(len(text), width(text))
        return strip(text, chars)

    return method


def _tested(test: Callable[..., bool]) -> Callable[..., bool]:
    def method(text: str, affix: Any, /, *bounds: Any) -> bool:
        affixes = affix if isinstance(affix, tuple) else (affix,)
        spend(len(affixes))
        for one in affixes:
            if isinstance(one, str):
                spend(1 + (min(len(one), len(text)) >> 6))
        return test(text, affix, *bounds)

    return method


def _found(
    find: Callable[..., Any], cost: Callable[[int, int], int] = search_cost
) -> Callable[..., Any]:
    def method(text: str, needle: Any, /, *bounds: Any) -> Any:
        if isinstance(needle, str):
            spend(cost(len(text), len(needle)))
        return find(text, needle, *bounds)

    return method


def _parted(
    part: Callable[[Any, Any], Any], cost: Callable[[int, int], int] = search_cost
) -> Callable[[str, Any], Any]:
    def method(text: str, separator: Any, /) -> Any:
        if isinstance(separator, str):
            spend(cost(len(text), len(separator)))
            make_text(len(text) + len(separator), width(text))
            make_items(3, OBJECT)
        return part(text, separator)

    return method


def _split(
    split: Callable[..., list[str]], cost: Callable[[int, int], int]
) -> Callable[..., list[str]]:
    def method(text: str, sep: Any = None, maxsplit: Any = -1) -> list[str]:
        if not isinstance(sep, str):
            pieces = _count_of_any(_SPACES[: 10 if text.isascii() else None], text) + 1
        else:
            spend(search_cost(len(text), len(sep)) + cost(len(text), len(sep)))
            pieces = text.count(sep) + 1 if sep else 1
        if isinstance(maxsplit, int) and maxsplit >= 0:
            pieces = min(pieces, maxsplit + 1)
        make_text(len(text), width(text))
        drawn = make_items(pieces, OBJECT)
        result = split(text, sep, maxsplit)
        release(drawn - OBJECT - len(result) * OBJECT)
        return result

    return method


def line_count(text: str) -> int:
    """At least as many as splitlines finds, and drawn for."""
    return 1 + _count_of_any(_ENDS[: 7 if text.isascii() else None], text)


def _count_of_any(characters: str, text: str) -> int:
    spend(1 + len(characters) * (len(text) >> 9))
    return sum(map(text.count, characters))


def _split_lines(text: str, keepends: Any = False) -> list[str]:
    make_text(len(text), width(text))
    make_items(line_count(text), OBJECT)
    return text.splitlines(keepends)


def join(separator: str, parts: Any, /) -> str:
    """`separator.join(parts)`."""
    texts = items_of(parts)
    if isinstance(separator, Markup):
        raise forbidden("join of a text that is marked safe")
    if all(isinstance(text, str) for text in texts):
        wide = max(map(width, texts), default=1)
        length = sum(map(len, texts)) + len(separator) * max(len(texts) - 1, 0)
        make_text(length, max(wide, width(separator)))
    return separator.join(texts)


def replace(text: str, old: Any, new: Any, count: Any = -1, /) -> str:
    """`text.replace(old, new, count)`."""
    if isinstance(text, Markup):
        raise forbidden("replace of a text that is marked safe")
    if isinstance(old, str) and isinstance(new, str):
        spend(2 * search_cost(len(text), len(old)))
        times = text.count(old)
        if isinstance(count, int) and count >= 0:
            times = min(times, count)
        length = len(text) + times * (len(new) - len(old))
        make_text(length, max(width(text), width(new)))
    return text.replace(old, new, count)


def _without(remove: Callable[[Any, Any], str]) -> Callable[[str, Any], str]:
    def method(text: str, affix: Any, /) -> str:
        make_text(len(text), width(text))
        return remove(text, affix)

    return method


def _format(text: str, /, *positional: Any, **named: Any) -> str:
    return braces(text, positional, named)


def _list_index(items: Any, wanted: Any, /) -> int:
    for index, item in enumerate(items):
        spend(1)
        if item is wanted or equal(item, wanted):
            return index
    raise ValueError("the value is not in the list")


def _list_count(items: Any, wanted: Any, /) -> int:
    spend(1 + len(items))
    return sum(1 for item in items if item is wanted or equal(item, wanted))


def _dict_get(mapping: dict[Any, Any], key: Any, default: Any = None, /) -> Any:
    check_key(key)
    return mapping.get(key, default)


def _viewed(view: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def method(mapping: dict[Any, Any], /) -> Any:
        make_items(0)
        return view(mapping)

    return method


def _loop_changed(loop: LoopContext, /, *values: Any) -> bool:
    make_items(len(values))
    if equal(loop._last_changed_value, values):
        return False
    loop._last_changed_value = values
    return True


def _loop_cycle(loop: LoopContext, /, *values: Any) -> Any:
    return loop.cycle(*values)


_TEXT: Mapping[str, Callable[..., Any]] = {
    "capitalize": changed_case(lambda text: text.capitalize()),
    "count": _found(str.count),
    "endswith": _tested(str.endswith),
    "find": _found(str.find),
    "format": _format,
    "index": _found(str.index),
    "isalnum": _asked(str.isalnum),
    "isalpha": _asked(str.isalpha),
    "isdecimal": _asked(str.isdecimal),
    "isdigit": _asked(str.isdigit),
    "islower": _asked(str.islower),
    "isnumeric": _asked(str.isnumeric),
    "isspace": _asked(str.isspace),
    "isupper": _asked(str.isupper),
    "join": join,
    "lower": changed_case(lambda text: text.lower()),
    "lstrip": _stripped(lambda text, chars: text.lstrip(chars)),
    "partition": _parted(lambda text, separator: text.partition(separator)),
    "removeprefix": _without(lambda text, prefix: text.removeprefix(prefix)),
    "removesuffix": _without(lambda text, suffix: text.removesuffix(suffix)),
    "replace": replace,
    "rfind": _found(str.rfind, reverse_cost),
    "rpartition": _parted(lambda text, separator: text.rpartition(separator), reverse_cost),
    "rsplit": _split(lambda text, sep, most: text.rsplit(sep, most), reverse_cost),
    "rstrip": _stripped(lambda text, chars: text.rstrip(chars)),
    "split": _split(lambda text, sep, most: text.split(sep, most), search_cost),
    "splitlines": _split_lines,
    "startswith": _tested(str.startswith),
    "strip": _stripped(lambda text, chars: text.strip(chars)),
    "swapcase": changed_case(lambda text: text.swapcase()),
    "title": changed_case(lambda text: text.title()),
    "upper": changed_case(lambda text: text.upper()),
}
_SEQUENCE: Mapping[str, Callable[..., Any]] = {"count": _list_count, "index": _list_index}

METHODS: Mapping[type, Mapping[str, Callable[..., Any]]] = {
    str: _TEXT,
    Markup: _TEXT,
    list: _SEQUENCE,
    tuple: _SEQUENCE,
    dict: {
        "get": _dict_get,
        "items": _viewed(dict.items),
        "keys": _viewed(dict.keys),
        "values": _viewed(dict.values),
    },
    LoopContext: {"changed": _loop_changed, "cycle": _loop_cycle},
}
LOOP_VALUES = frozenset({"depth", "depth0", "first", "index", "index0", "last", "length"})
LOOP_VALUES |= {"nextitem", "previtem", "revindex", "revindex0"}


def owner_name(kind: type) -> str:
    """What a type is called in messages about templates."""
    return "loop" if kind is LoopContext else "view" if kind in Views else kind.__name__
