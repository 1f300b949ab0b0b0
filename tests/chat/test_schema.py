"""Values against JSON schemas, as tool declarations use them."""

import pytest

from lorakit.chat.schema import problems

NODE = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"a": 1}, {}),
        ({"a": 1}, True),
        ("x", {"type": "STRING"}),
        (1, {"type": ["string", "integer"]}),
        (None, {"type": "string", "nullable": True}),
        (None, {"type": ["string", "null"]}),
        (2.0, {"type": "integer"}),
        (2, {"type": "number", "minimum": 2, "maximum": 2}),
        ([1, 2], {"type": "array", "items": {"type": "integer"}, "minItems": 2}),
        ([1, "a"], {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}),
        ({"a": 1}, {"additionalProperties": {"type": "integer"}}),
        (1, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (1, {"oneOf": [{"type": "string"}, {"type": "integer"}]}),
        (1, {"allOf": [{"minimum": 0}, {"maximum": 1}], "not": {"const": 5}}),
        ("a", {"enum": ["a", 1]}),
        ({"next": {"next": {}}}, NODE),
        (1, {"type": "something-new"}),
    ],
)
def test_what_fits(value, schema):
    assert problems(value, schema, "f") == []


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        (1, {"type": "string"}, "f: expected string, found 1"),
        (True, {"type": "integer"}, "f: expected integer, found True"),
        (1, {"type": "boolean"}, "f: expected boolean, found 1"),
        (1.5, {"type": "integer"}, "f: expected integer, found 1.5"),
        (None, {"type": "string"}, "f: expected string, found None"),
        (True, {"enum": [1]}, "f: expected one of 1, found True"),
        ("b", {"const": "a"}, "f: expected 'a', found 'b'"),
        (1, {"minimum": 2}, "f: expected at least 2, found 1"),
        (3, {"exclusiveMaximum": 3}, "f: expected less than 3, found 3"),
        ("", {"minLength": 1}, "f: expected at least 1 characters, found 0"),
        ([1], {"maxItems": 0}, "f: expected at most 0 items, found 1"),
        ({}, {"required": ["a"]}, "f.a: required, but missing"),
        ({"a": [1]}, {"properties": {"a": {"items": {"type": "null"}}}}, "f.a[0]: expected null"),
        ({"b": 1}, {"additionalProperties": False}, "f.b: unknown; expected no arguments"),
        ({"b": 1}, {"additionalProperties": {"type": "null"}}, "f.b: expected null"),
        (1, {"anyOf": [{"type": "null"}, {"type": "string"}]}, "f: fits none of anyOf"),
        (1, {"oneOf": [{}, {"type": "integer"}]}, "f: fits more than one of oneOf"),
        (1, {"not": {"type": "integer"}}, "f: has the form that the schema excludes"),
        (1, False, "f: not allowed"),
        (1, {"$ref": "#/nowhere"}, "f: the schema has no #/nowhere"),
        (1, {"$ref": "https://example.org/x"}, "f: the schema refers outside itself"),
        ({"next": {"next": 1}}, NODE, "f.next.next: expected object, found 1"),
    ],
)
def test_what_does_not_fit(value, schema, expected):
    found = problems(value, schema, "f")
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_every_fault_is_reported():
    schema = {"properties": {"a": {"type": "string"}}, "required": ["b"]}
    assert len(problems({"a": 1, "c": 2}, schema, "f", closed=True)) == 3
    assert len(problems({"a": 1, "c": 2}, schema, "f")) == 2


def test_a_schema_that_multiplies_ends():
    twice = {"$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/x"}]}}}
    assert problems(1, {**twice, "$ref": "#/$defs/x"}, "f")
