"""Annotations: the schema of each kind, and the way back from JSON."""

import datetime
import enum
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, Required, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.chat.annotations import Form, form_of
from lorakit.chat.results import plain
from lorakit.chat.schema import problems
from lorakit.errors import ParameterError


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Shape(enum.Enum):
    DOT = (0, 0)
    LINE = (0, 1)


@dataclass(frozen=True)
class Lamp:
    """A lamp.

    Attributes:
        room: Where it is.
    """

    room: str
    color: Color = Color.RED
    tags: tuple[str, ...] = ()
    level: Annotated[int, "How bright"] = field(default_factory=int)
    hidden: int = field(default=0, init=False)


class Place(TypedDict, total=False):
    name: Required[str]
    floor: int


class Fuller(Place):
    rooms: "list[Lamp]"
    extra: NotRequired[bool]


@dataclass
class Node:
    inner: "list[Node]"


Name = NewType("Name", str)


class AtLeast:
    """As annotated_types has it."""

    ge = 0


class Sized:
    description = "A few"
    metadata = (type("Least", (), {"min_length": 1})(), type("Most", (), {"max_length": 3})())


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (Name, {"type": "string"}),
        (list, {"type": "array", "items": {}}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[bool], {"type": "array", "items": {"type": "boolean"}}),
        (set[str], {"type": "array", "items": {"type": "string"}}),
        (dict, {"type": "object", "additionalProperties": True}),
        (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),
        (Color, {"type": "string", "enum": ["red", "blue"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (Shape, {"type": "string", "enum": ["DOT", "LINE"]}),
        (Optional[int], {"type": "integer", "nullable": True}),  # noqa: UP045
        (Color | None, {"type": "string", "enum": ["red", "blue", None], "nullable": True}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (
            Annotated[int, "How many", AtLeast()],
            {"type": "integer", "description": "How many", "minimum": 0},
        ),
        (
            Annotated[list[str], Sized()],
            {
                "type": "array",
                "items": {"type": "string"},
                "description": "A few",
                "minItems": 1,
                "maxItems": 3,
            },
        ),
        (datetime.date, {"type": "string", "format": "date"}),
        (Path, {"type": "string"}),
    ],
)
def test_schemas(hint, schema):
    assert form_of(hint, "f").schema == schema


def test_a_dataclass():
    assert form_of(Lamp, "f").schema == {
        "type": "object",
        "properties": {
            "room": {"type": "string", "description": "Where it is."},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
            "level": {"type": "integer", "description": "How bright"},
        },
        "required": ["room"],
        "additionalProperties": False,
    }


def test_a_typed_dict_and_what_is_required():
    form = form_of(Fuller, "f")
    assert form.schema["required"] == ["name", "rooms"]
    assert set(form.schema["properties"]) == {"name", "floor", "rooms", "extra"}
    assert form.convert({"name": "a", "rooms": [{"room": "b"}]}) == {
        "name": "a",
        "rooms": [Lamp("b")],
    }


class TypeAliasType:
    """As that of `type Pair = tuple[int, int]`, which Python 3.11 cannot write."""

    __value__ = tuple[int, int]


def test_a_named_type():
    assert form_of(TypeAliasType(), "f").convert([1, 2]) == (1, 2)


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (bytes, "f: no JSON schema says bytes"),
        (complex, "no JSON schema says complex"),
        (dict[int, str], "the keys of a JSON object are texts, not int"),
        (list[bytes], r"f\[\]: no JSON schema says bytes"),
        (Node, r"f.inner\[\]: Node holds itself"),
        ([int], "no JSON schema says"),
        ({}, "no JSON schema says"),
        ("int", "no JSON schema says 'int'"),
        (Annotated[str, AtLeast()], "ge bounds integer or number"),
        (enum.Enum("Empty", {}), "Empty has no member"),
        (TypedDict("Gone", {"a": "Nowhere"}), "its annotations cannot be read"),  # noqa: F821
    ],
)
def test_what_cannot_be_said(hint, reason):
    with pytest.raises(ParameterError, match=reason):
        form_of(hint, "f")


def test_pydantics_models_are_told_the_way():
    class Model:
        @classmethod
        def model_json_schema(cls):
            return {}

    with pytest.raises(ParameterError, match="no JSON schema says") as error:
        form_of(Model, "f")
    assert "parameters=Model.model_json_schema()" in error.value.hint


def test_deep_nesting_is_an_error():
    hint = int
    for _ in range(100):
        hint = list[hint]
    with pytest.raises(ParameterError, match="nested deeper than 32"):
        form_of(hint, "f")


def test_whole_numbers_and_numbers():
    assert type(form_of(int, "f").convert(2.0)) is int
    assert type(form_of(float, "f").convert(2)) is float


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (datetime.date, "2026-02-31"),
        (uuid.UUID, "no"),
        (set[list[int]], [[1]]),
        (datetime.date | int, "never"),
    ],
)
def test_what_fits_the_schema_and_is_none(hint, value):
    form = form_of(hint, "f")
    assert problems(value, form.schema, "f") == []
    with pytest.raises(ValueError, match=r"\w"):
        form.convert(value)


def test_a_class_that_refuses_its_fields():
    @dataclass
    class Even:
        number: int

        def __post_init__(self):
            if self.number % 2:
                raise ValueError("odd")
            if self.number < 0:
                raise LookupError("below")

    assert form_of(Even, "f").convert({"number": 2}) == Even(2)
    with pytest.raises(ValueError, match="Even: below"):
        form_of(Even, "f").convert({"number": -2})
    with pytest.raises(ValueError, match="Even: odd"):
        form_of(Even, "f").convert({"number": 1})


# A value of a type, said in JSON, read back.

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SIMPLE = [
    (str, TEXT),
    (int, st.integers(-(2**60), 2**60)),
    (float, NUMBER),
    (bool, st.booleans()),
    (None, st.none()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),
    (datetime.date, st.dates()),
    (datetime.datetime, st.datetimes()),
    (uuid.UUID, st.uuids()),
    (Lamp, st.builds(Lamp, TEXT, st.sampled_from(Color), st.tuples(TEXT), st.integers(0, 9))),
]
HASHED = [pair for pair in SIMPLE if pair[0] not in (float,)]


def wider(inner):
    """A container of what `inner` gives, as (annotation, strategy of values)."""
    hint, values = inner
    return st.sampled_from(
        [
            (list[hint], st.lists(values, max_size=3)),
            (tuple[hint, ...], st.lists(values, max_size=3).map(tuple)),
            (tuple[hint, int], st.tuples(values, st.integers(0, 9))),
            (dict[str, hint], st.dictionaries(TEXT, values, max_size=3)),
        ]
    )


pairs = st.recursive(st.sampled_from(SIMPLE), lambda inner: inner.flatmap(wider), max_leaves=3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_value_said_in_json_is_itself_again(data):
    hint, values = data.draw(pairs)
    value = data.draw(values)
    form = form_of(hint, "f")
    said = json.loads(json.dumps(_said(value)))
    assert problems(said, form.schema, "f") == []
    again = form.convert(said)
    assert again == value
    assert type(again) is type(value)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_sets_too(data):
    hint, values = data.draw(st.sampled_from(HASHED))
    value = data.draw(st.frozensets(values, max_size=3))
    form = form_of(frozenset[hint], "f")
    assert form.convert(json.loads(json.dumps(_said(value)))) == value


def _said(value):
    """In JSON, without what a constructor does not take."""
    if isinstance(value, Lamp):
        return {k: v for k, v in plain(value, "").items() if k != "hidden"}
    if isinstance(value, list | tuple | frozenset):
        return [_said(item) for item in value]
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items()}
    return plain(value, "")


def test_a_form_that_forgets_to_convert_would_be_found():
    value, form = Color.RED, form_of(Color, "f")
    assert form.convert(_said(value)) == value
    forgetful = Form(schema=form.schema, convert=lambda value: value)
    assert forgetful.convert(_said(value)) != value


def test_a_union_takes_the_first_that_fits():
    form = form_of(datetime.date | str | list[int], "f")
    assert form.convert("2026-02-03") == datetime.date(2026, 2, 3)
    assert form.convert("soon") == "soon"
    assert form.convert([1]) == [1]
