"""What is written for llguidance allows what the schema does, where the library would slip."""

import pytest
from byte_tokens import fits

from lorakit.chat.constraints.lark import json_rule
from lorakit.chat.constraints.walking import walk
from lorakit.errors import ParameterError


def takes(schema, text):
    return fits(f"start: {json_rule(walk(schema, 'schema'))}", text)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"exclusiveMinimum": 1, "maximum": 1.5}, ["1.001", "1.5", "1.25"], ["1", "1.0", "1.51"]),
        ({"exclusiveMinimum": 1, "maximum": 99, "exclusiveMaximum": 1.5}, ["1.4"], ["1", "1.5"]),
        ({"exclusiveMinimum": -0.0, "exclusiveMaximum": 0.5}, ["0.1", "0.499"], ["0", "0.5"]),
        ({"exclusiveMinimum": -2.25, "exclusiveMaximum": -2}, ["-2.1"], ["-2", "-2.0", "-2.25"]),
        ({"minimum": 1, "exclusiveMinimum": 1, "exclusiveMaximum": 3}, ["1.5", "2"], ["1", "3"]),
    ],
)
def test_an_excluded_bound_is_excluded(bounds, inside, outside):
    schema = {"type": "number", **bounds}
    assert [text for text in inside if not takes(schema, text)] == []
    assert [text for text in outside if takes(schema, text)] == []


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "array", "items": {}}])
def test_any_value_has_numbers_that_a_float_holds(schema):
    around = {"object": '{{"a": {}}}', "array": "[{}]"}.get(schema.get("type"), "{}")
    for text in ("12", '"a"', "[1, {}]", "null", "true", "-1.5"):
        assert takes(schema, around.format(text)), text
    for text in ("1e999", "5e841411", "[1e999]"):
        assert not takes(schema, around.format(text)), text


def test_a_step_is_not_too_long_for_an_automaton():
    assert takes({"type": "integer", "multipleOf": 9973}, "19946")
    with pytest.raises(ParameterError, match="multipleOf: expected a number above 0 of few"):
        walk({"type": "integer", "multipleOf": 99_991}, "schema")
