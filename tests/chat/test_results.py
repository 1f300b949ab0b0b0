"""Results of functions, as the model reads them."""

import datetime
import enum
import json
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath

import numpy as np
import pytest

from lorakit.chat.results import rendered
from lorakit.errors import ParameterError


class State(enum.Enum):
    ON = "on"


@dataclass
class Lamp:
    room: str
    state: State


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n\u00e9", "as it is\n\u00e9"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, "a", (2,)], '[1, "a", [2]]'),
        ({3, 1, 2}, "[1, 2, 3]"),
        ({"a": {1: None}, State.ON: 2}, '{"a": {"1": null}, "on": 2}'),
        (Lamp("hall", State.ON), '{"room": "hall", "state": "on"}'),
        (State.ON, '"on"'),
        (datetime.date(2026, 2, 3), '"2026-02-03"'),
        (datetime.datetime(2026, 2, 3, 4, 5), '"2026-02-03T04:05:00"'),
        (datetime.time(4, 5), '"04:05:00"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (PurePosixPath("a/b"), '"a/b"'),
        (Decimal("1.50"), '"1.50"'),
        ({datetime.date(2026, 2, 3): 1, None: 2}, '{"2026-02-03": 1, "null": 2}'),
    ],
)
def test_what_can_be_said(value, text):
    assert rendered(value, 1000) == text


def test_a_text_of_a_subclass_is_a_text_and_a_number_of_numpy_a_number():
    class Name(str):
        def __str__(self):
            return "another"

    assert rendered(Name("a"), 10) == "a"
    assert rendered(np.str_("a"), 10) == "a"
    assert rendered([np.int64(3), np.float32(0.5)], 20) == "[3, 0.5]"
    with pytest.raises(ParameterError, match="JSON has no nan"):
        rendered(np.float32("nan"), 10)


def test_too_long_is_cut_with_a_remark():
    assert rendered("x" * 20, 20) == "x" * 20
    assert rendered("x" * 21, 20) == "x" * 20 + "\n[cut: 20 of 21 characters are shown]"
    long = rendered(list(range(1000)), 50)
    assert long.splitlines()[0] == json.dumps(list(range(1000)))[:50]


def circle():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "result: object is nothing a model can read"),
        ([1, {"a": b"x"}], r"result\[1\]\['a'\]: bytes is nothing"),
        (float("nan"), "JSON has no nan"),
        (float("inf"), "JSON has no inf"),
        ({(1, 2): 3}, "tuple is no key"),
        (circle(), "nested deeper than 64 levels, or in itself"),
        ("\ud800", "half of a surrogate pair"),
        (["\ud800"], "half of a surrogate pair"),
        ([10**5000], "result: Exceeds the limit"),
        (Lamp, "type is nothing"),
        (len, "builtin_function_or_method is nothing"),
    ],
)
def test_what_cannot_be_said_is_an_error(value, reason):
    with pytest.raises(ParameterError, match=reason):
        rendered(value, 1000)
