"""Strings and numbers of a schema: their bounds as nodes, and whether any value is left.

Faults are told to a callable, each with the keyword that it concerns; the value is then left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from lorakit.chat.constraints.expressions import expression_fault
from lorakit.chat.constraints.nodes import Number, Text
from lorakit.chat.constraints.tally import is_short
from lorakit.values import shown, whole

Fault = Callable[[str, str], None]  # the keyword, and what is wrong with it

FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
)  # fmt: skip
FREE_FORMATS = ("binary", "password")  # OpenAPI's, of any text
MAX_LENGTH = 100_000  # characters of a string, items of an array
MAX_BOUND = 2**53  # beyond, neighbouring whole numbers are one float
MAX_STEP = 10_000  # multipleOf, in units of its last decimal: states of an automaton, 20 us each
OF_STRINGS = ("minLength", "maxLength", "pattern", "format")
OF_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def text_of(schema: Mapping[str, Any], fault: Fault) -> Text:
    """The string that a schema describes."""
    least, most = size_of(schema, "minLength", "maxLength", fault)
    pattern, kind = schema.get("pattern"), schema.get("format")
    if pattern is not None:
        if not isinstance(pattern, str):
            fault("pattern", f"expected a regular expression, found {shown(pattern)}")
            pattern = None
        elif why := expression_fault(pattern):
            fault("pattern", why)
            pattern = None
    if kind in FREE_FORMATS:
        kind = None
    if kind is not None and (not isinstance(kind, str) or kind not in FORMATS):
        fault("format", f"expected one of {', '.join(FORMATS)}, found {shown(kind)}")
        kind = None
    return Text(least=least, most=most, pattern=pattern, format=kind)


def size_of(
    schema: Mapping[str, Any], least: str, most: str, fault: Fault
) -> tuple[int, int | None]:
    """The smallest and the largest size that two keywords say."""
    sizes: dict[str, int] = {}
    for key in (least, most):
        value = schema.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one kind of number
        if value is None:
            continue
        if not whole(value) or not 0 <= value <= MAX_LENGTH:
            fault(key, f"expected a whole number from 0 to {MAX_LENGTH}, found {shown(value)}")
            continue
        sizes[key] = int(value)
    low, high = sizes.get(least, 0), sizes.get(most)
    if high is not None and low > high:
        fault(least, f"{low} is more than {most}, {high}: nothing fits both")
        high = None
    return low, high


def number_of(schema: Mapping[str, Any], whole_only: bool, fault: Fault) -> Number:
    """The number that a schema describes."""
    bounds: dict[str, float] = {}
    for key in OF_NUMBERS:
        value = schema.get(key)
        if value is None:
            continue
        if not _is_number(value) or abs(value) > MAX_BOUND:
            fault(
                key,
                f"expected a number of at most 15 digits, from -2^53 to 2^53, found {shown(value)}",
            )
        elif key == "multipleOf" and not _is_step(value):
            fault(
                key,
                f"expected a number above 0 of few digits, at most {MAX_STEP} in units of its "
                f"last decimal, found {shown(value)}",
            )
        else:
            bounds[key] = value + 0  # -0.0 is 0
    number = Number(
        whole=whole_only,
        minimum=bounds.get("minimum"),
        maximum=bounds.get("maximum"),
        above=bounds.get("exclusiveMinimum"),
        below=bounds.get("exclusiveMaximum"),
        multiple_of=bounds.get("multipleOf"),
    )
    if not has_numbers(number):
        at = next(key for key in OF_NUMBERS if key in bounds)
        said = ", ".join(f"{key} {value}" for key, value in bounds.items())
        fault(at, f"no {'whole ' * whole_only}number fits {said}")
        return Number(whole=whole_only)
    return number


def both_texts(one: Text, other: Text) -> Text | None:
    """What is both; None where nothing is. Raises ValueError where one node cannot say it."""
    for name in ("pattern", "format"):
        a, b = getattr(one, name), getattr(other, name)
        if a is not None and b is not None and a != b:
            raise ValueError(f"two values of {name} for one string")
    least = max(one.least, other.least)
    most = _smaller(one.most, other.most)
    if most is not None and least > most:
        return None
    return Text(
        least=least,
        most=most,
        pattern=one.pattern if other.pattern is None else other.pattern,
        format=one.format if other.format is None else other.format,
    )


def both_numbers(one: Number, other: Number) -> Number | None:
    """What is both; None where nothing is. Raises ValueError where one node cannot say it."""
    steps = [n.multiple_of for n in (one, other) if n.multiple_of is not None]
    if len(steps) == 2:
        large, small = sorted(map(_exact, steps), reverse=True)
        if (large / small).denominator != 1:
            raise ValueError("two values of multipleOf for one number")
    number = Number(
        whole=one.whole or other.whole,
        minimum=_larger(one.minimum, other.minimum),
        maximum=_smaller(one.maximum, other.maximum),
        above=_larger(one.above, other.above),
        below=_smaller(one.below, other.below),
        multiple_of=max(steps, default=None),
    )
    return number if has_numbers(number) else None


def has_numbers(number: Number) -> bool:
    """Whether any number fits."""
    low, high, open_low, open_high = _range(number)
    if low is None or high is None:
        return True
    step = None if number.multiple_of is None else _exact(number.multiple_of)
    if number.whole:
        step = Fraction(1) if step is None else step * step.denominator  # the whole multiples
    if step is None:
        return low < high or (low == high and not (open_low or open_high))
    first = math.floor(low / step) + 1 if open_low else math.ceil(low / step)
    last = math.ceil(high / step) - 1 if open_high else math.floor(high / step)
    return first <= last


def apart(one: Number, other: Number) -> bool:
    """Whether no number fits both."""
    try:
        return both_numbers(one, other) is None
    except ValueError:
        return False


def text_fits(value: str, node: Text) -> bool | None:
    """Whether a string fits; None where that takes an expression to say."""
    if len(value) < node.least or (node.most is not None and len(value) > node.most):
        return False
    return None if node.pattern is not None or node.format is not None else True


def number_fits(value: float, node: Number) -> bool:
    """Whether a number fits."""
    if not math.isfinite(value):
        return False
    low, high, open_low, open_high = _range(node)
    exact = _exact(value)
    return (
        (not node.whole or exact.denominator == 1)
        and (low is None or exact > low or (exact == low and not open_low))
        and (high is None or exact < high or (exact == high and not open_high))
        and (node.multiple_of is None or (exact / _exact(node.multiple_of)).denominator == 1)
    )


def _range(number: Number) -> tuple[Fraction | None, Fraction | None, bool, bool]:
    """The ends of a number's range, and whether each is excluded."""
    low, open_low = _end(number.minimum, number.above, above=True)
    high, open_high = _end(number.maximum, number.below, above=False)
    return low, high, open_low, open_high


def _end(closed: float | None, open_: float | None, *, above: bool) -> tuple[Fraction | None, bool]:
    if closed is None or open_ is None:
        found = closed if open_ is None else open_
        return None if found is None else _exact(found), open_ is not None
    one, other = _exact(closed), _exact(open_)
    excluded = other >= one if above else other <= one
    return (other, True) if excluded else (one, False)


def _exact(value: float) -> Fraction:
    """The decimal number that a JSON text says."""
    return Fraction(repr(value) if isinstance(value, float) else int(value))


def _is_number(value: Any) -> bool:
    return whole(value) or (isinstance(value, float) and is_short(value))


def _is_step(value: float) -> bool:
    exact = _exact(value)
    if exact <= 0:
        return False
    decimals = 0
    while exact.denominator != 1:
        exact, decimals = exact * 10, decimals + 1
        if decimals > 9:
            return False
    return exact <= MAX_STEP


def _larger(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else max(one, other)


def _smaller(one: Any, other: Any) -> Any:
    return one if other is None else other if one is None else min(one, other)
