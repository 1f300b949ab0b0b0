"""Schemas are walked: what is enforced, what is refused with its path, what is never written."""

import json
import random

import jsonschema
import pytest
from byte_tokens import BYTES, TOKENS, fits
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.constraints.jsons import to_json_schema
from lorakit.chat.constraints.lark import json_rule
from lorakit.chat.constraints.matching import Compiled
from lorakit.chat.constraints.nodes import AnyValue, Constant, Number, Object, Reference, Text
from lorakit.chat.constraints.walking import walk
from lorakit.chat.schema import problems
from lorakit.errors import EngineError, ParameterError

TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "of": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["v"],
        }
    },
    "$ref": "#/$defs/tree",
}
ONE_OF = {
    "oneOf": [
        {"properties": {"t": {"const": "a"}}, "required": ["t"]},
        {"properties": {"t": {"const": "b"}, "n": {"type": "number"}}, "required": ["t"]},
    ]
}
TAKEN = (
    ({"type": "STRING", "maxLength": 3}, '"abc"', '"abcd"'),
    ({"type": ["integer", "null"], "minimum": 2}, "null", "1"),
    ({"type": "string", "nullable": True, "title": "x", "x-order": 3}, "null", "1"),
    ({"enum": ["a", 1, None, {"b": [1.5]}]}, '{"b": [1.5]}', '"b"'),
    ({"type": "string", "enum": ["a", 3]}, '"a"', "3"),
    ({"const": "é\n"}, '"é\\n"', '"e"'),
    ({"type": "integer", "minimum": 3, "maximum": 9, "multipleOf": 4}, "8", "6"),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0.5", "0"),
    ({"type": "number"}, "-12.5", "1e999"),
    ({"type": "integer"}, "-123456789012345", "1" * 17),
    ({"type": "string", "pattern": "^[a-z]+(-[0-9]{2})?$|x/y"}, '"ab-12"', '"ab-1"'),
    ({"type": "string", "pattern": "b."}, '"abcd"', '"acd"'),
    ({"type": "string", "format": "password"}, '"x"', "1"),
    ({"type": "string", "format": "date"}, '"2026-11-29"', '"2026-13-29"'),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, "[1, 2]", "[]"),
    ({"prefixItems": [{"const": 1}], "items": {"type": "null"}}, "[1, null]", "[2]"),
    ({"properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["a"]}, '{"a": 2}', "{}"),
    ({"properties": {"b": {}, "a": {}}}, '{"b": 1, "a": []}', '{"a": 1, "b": 2}'),
    ({"type": "object"}, '{"q": [1, {"z": null}]}', "[]"),
    ({"additionalProperties": {"type": "integer"}}, '{"q": 1}', '{"q": "x"}'),
    ({"allOf": [{"type": "integer"}, {"maximum": 3}]}, "3", "4"),
    ({"properties": {"a": {"type": "integer"}}, "allOf": [{"required": ["a"]}]}, '{"a": 1}', "{}"),
    ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, "true", '"x"'),
    ({**ONE_OF, "discriminator": {"propertyName": "t"}}, '{"t": "a"}', '{"t": "c"}'),
    (
        {"$ref": "#/definitions/n", "definitions": {"n": {"type": "null"}}, "minimum": 3},
        "null",
        "1",
    ),
    (ONE_OF, '{"t": "b", "n": 1.5}', '{"t": "c"}'),
    (TREE, '{"v": 1, "of": [{"v": 2}]}', '{"v": 1, "of": [{}]}'),
)


@pytest.mark.parametrize(("schema", "right", "wrong"), TAKEN)
def test_what_fits_is_taken_and_nothing_else(schema, right, wrong):
    grammar = f"start: {json_rule(walk(schema, 'schema'))}"
    assert fits(grammar, right)
    assert not fits(grammar, wrong)


REFUSED = (
    ({"minimum": 3, "maximum": 2}, "schema.minimum: no number fits"),
    ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "schema.exclusiveMinimum"),
    ({"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 7}, "schema.minimum"),
    ({"minLength": 4, "maxLength": 1}, "schema.minLength: 4 is more than maxLength"),
    ({"enum": []}, "schema.enum: expected a list of values"),
    ({"enum": list(range(2001))}, "schema.enum: 2001 values"),
    ({"type": "string", "enum": [1]}, "leaves no value"),
    ({"required": ["z"], "additionalProperties": False}, "schema.required: 'z' is required"),
    ({"properties": {"a": {"not": {}}}}, "schema.properties.a: 'not' cannot be enforced"),
    ({"properties": {"a b": {"typ": "x"}}}, "did you mean type?"),
    ({"type": "strang"}, "schema.type: expected"),
    ({"uniqueItems": True}, "'uniqueItems' cannot be enforced"),
    ({"pattern": "(?=a)b"}, "schema.pattern: look-around"),
    ({"format": "regex"}, "schema.format: expected one of date"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "schema.oneOf: a value may fit both"),
    ({"allOf": [{"type": "integer"}, {"type": "string"}]}, "schema.allOf: no value fits"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "cannot be enforced together"),
    ({"$ref": "#"}, "refers to itself on every way"),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "refers to itself on every way"),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
        "itself",
    ),
    (
        {"type": "string", "required": True},
        "schema.required: expected a list of the object's names",
    ),
    ({"required": "a"}, "schema.required: expected a list of the object's names"),
    ({"type": "string", "discriminator": {"propertyName": "a"}}, "'discriminator' cannot be"),
    ({"$ref": "http://x"}, "schema.$ref: expected a place in this schema"),
    ({"$ref": "#/$defs/none"}, "schema.$ref: the schema has no"),
    ({"type": "str"}, "integer, boolean, null, found 'str'; did you mean string?"),
    ({"items": []}, "schema.items: expected a schema"),
    ({"minItems": 1, "maxItems": 0}, "schema.minItems"),
    ({"prefixItems": [{}], "items": False, "minItems": 2}, "no array has 2 items"),
    ({"properties": {f"p{i}": {} for i in range(501)}}, "schema.properties: at most 500"),
    ({"minLength": 1 << 40}, "schema.minLength"),
    ({"multipleOf": 0}, "schema.multipleOf"),
    ({"maximum": float("nan")}, "schema.maximum"),
    ({"const": "\ud800"}, "schema.const"),
    ({"const": 1.3677621726332543}, "schema.const: expected a JSON value of at most 15 digits"),
    (False, "no value fits"),
    ("string", "schema: expected a schema"),
)


@pytest.mark.parametrize(("schema", "fault"), REFUSED)
def test_what_cannot_be_enforced_is_refused_with_its_path(schema, fault):
    with pytest.raises(ParameterError) as error:
        walk(schema, "schema")
    assert fault in "\n".join(error.value.items)
    listed = "keywords that are enforced: type" in error.value.hint
    assert listed == ("cannot be enforced" in str(error.value.items))  # else no keyword is missed
    assert listed or "constraints" in error.value.hint


def test_all_faults_are_told_at_once():
    schema = {"properties": {"a": {"minimum": 3, "maximum": 2}, "b": {"foo": 1}, "c": {"type": 3}}}
    with pytest.raises(ParameterError) as error:
        walk(schema, "f")
    assert [item.split(":")[0] for item in error.value.items] == [
        "f.properties.a.minimum", "f.properties.b", "f.properties.c.type",
    ]  # fmt: skip


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(100),
        {"const": json.loads("[" * 100 + "]" * 100)},
        {"anyOf": [{"enum": list(range(i * 1500, i * 1500 + 1500))} for i in range(30)]},
        {"anyOf": [{"const": i} for i in range(500)]},
        {"const": "x" * (1 << 21)},
        {"$ref": "#/$defs/d0", "$defs": {
            f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(5000)
        } | {"d5000": {}}},
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused(schema):
    with pytest.raises(ParameterError):
        walk(schema, "schema")


def test_objects_of_tools_are_closed():
    inner = {"type": "object", "properties": {"x": {"type": "string"}}}
    tool = {"name": "f", "parameters": {"properties": {"o": inner, "free": {"type": "object"}}}}
    bare, wrapped = functions_of([{"name": "g"}, {"type": "function", "function": tool}])
    assert bare.arguments.root == Object()
    root = wrapped.arguments.root
    assert root.rest is None
    assert root.properties["o"].rest is None
    assert root.properties["free"].rest == AnyValue()
    said = {**inner, "additionalProperties": {"type": "integer"}}
    assert functions_of([{"name": "f", "parameters": said}])[0].arguments.root.rest == Number(
        whole=True
    )
    assert walk(inner, "open").root.rest == AnyValue()


def test_faults_of_tools_name_the_tool():
    tools = [
        {"name": "g", "parameters": {"properties": {"x": {"not": {}}}}},
        {"name": 3},
        {"name": "h"},
        {"name": "h"},
    ]
    with pytest.raises(ParameterError) as error:
        functions_of(tools)
    assert [item.split(":")[0] for item in error.value.items] == [
        "g.properties.x", "tools[1]", "tools[3]",
    ]  # fmt: skip
    with pytest.raises(ParameterError, match="list of functions"):
        functions_of({"name": "f"})
    with pytest.raises(ParameterError):
        functions_of([{"name": "f", "parameters": {"type": "string"}}])


def test_a_schema_that_contains_itself_keeps_its_name():
    schema = walk(TREE, "schema")
    assert schema.root == Reference(name="d0")
    assert to_json_schema(schema)["$ref"] == "#/$defs/d0"
    assert schema.definitions["d0"].properties["of"].rest == Reference(name="d0")


def test_siblings_of_a_type_are_combined():
    assert walk({"type": "integer", "enum": [1, "a", 2.0]}, "s").root == Constant(values=(1, 2.0))
    assert walk({"minLength": 2}, "s").root == Text(least=2)


SCALARS = st.one_of(
    st.builds(lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
              st.integers(-300, 300), st.integers(-300, 300)),
    st.builds(lambda a, b: {"type": "string", "minLength": min(a, b), "maxLength": max(a, b)},
              st.integers(0, 5), st.integers(0, 5)),
    st.builds(lambda v: {"enum": v}, st.lists(st.one_of(
        st.text(max_size=3), st.integers(-9, 9), st.booleans(), st.none(),
        st.floats(-2, 2).map(lambda x: round(x, 6))),
        min_size=1, max_size=3)),
    st.sampled_from([
        {"type": "boolean"}, {"type": "NULL"}, {"type": "string", "pattern": "^[a-c]{1,3}$"},
        {"type": ["integer", "null"], "multipleOf": 5, "minimum": 0, "maximum": 50},
        {"type": "number", "exclusiveMinimum": -1, "maximum": 2.5}, {"const": {"k": [1, "x"]}},
        {"type": "string", "maxLength": 2, "nullable": True},
    ]),
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "ab", 'q"', "é", "the"])


def objects(inner):
    def build(properties, chosen, others):
        schema = {"type": "object", "properties": properties}
        schema["required"] = [name for name in properties if name in chosen]
        return schema if others is None else {**schema, "additionalProperties": others}

    return st.builds(
        build,
        st.dictionaries(NAMES, inner, max_size=4),
        st.sets(NAMES),
        st.sampled_from([False, None]),
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(lambda item, a, b: {"type": "array", "items": item, "minItems": min(a, b),
                                      "maxItems": max(a, b)},
                  inner, st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)  # fmt: skip


def written(grammar, seed, steps=400):
    """A text of random tokens that a grammar allows; None where it did not end in time."""
    rng = random.Random(seed)
    matcher = Compiled(BYTES, grammar).matcher([TOKENS.end])
    ids = []
    for _ in range(steps):
        allowed = [int(token) for token in matcher.allowed(1 << 20)]
        plain = [token for token in allowed if 32 <= token < 127 or token >= 256] or allowed
        token = TOKENS.end if TOKENS.end in allowed and rng.random() < 0.5 else rng.choice(plain)
        matcher.accept(token)
        if token == TOKENS.end:
            return b"".join(TOKENS.token_bytes(each) for each in ids).decode()
        ids.append(token)
    return None


def standard(schema):
    """The same in JSON Schema's own words: types in lower case, null for `nullable`."""
    if isinstance(schema, list):
        return [standard(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    said = {}
    for word, value in schema.items():
        if word == "properties":
            said[word] = {name: standard(inner) for name, inner in value.items()}
        else:
            said[word] = value if word in ("enum", "const") else standard(value)
    if isinstance(said.get("type"), str):
        said["type"] = said["type"].lower()
    return {"anyOf": [said, {"type": "null"}]} if said.pop("nullable", False) else said


@settings(max_examples=50, deadline=None)
@given(SCHEMAS, st.integers(0, 1 << 30))
def test_random_tokens_give_values_that_fit(schema, seed):
    nodes = walk(schema, "schema", closed=True)
    text = written(f"start: {json_rule(nodes)}", seed)
    if text is not None:
        assert problems(json.loads(text), schema, "value") == []
        jsonschema.Draft202012Validator(standard(schema)).validate(json.loads(text))


def test_without_the_grammar_random_tokens_do_not_fit():
    """The broken variant: any JSON at all."""
    schema = {"type": "integer", "minimum": 3, "maximum": 5}
    texts = [written(f"start: {json_rule(walk({}, 'any'))}", seed) for seed in range(5)]
    values = [json.loads(text) for text in texts if text is not None]
    assert any(problems(value, schema, "value") for value in values)
    assert not all(jsonschema.Draft202012Validator(schema).is_valid(value) for value in values)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
              st.sampled_from(["#", "#/$defs/a", "integer", "object", "(", "date"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(
        st.sampled_from(["type", "properties", "items", "anyOf", "oneOf", "allOf", "$ref", "enum",
                         "const", "required", "minimum", "maxLength", "pattern", "prefixItems",
                         "additionalProperties", "$defs", "a", "format", "minItems", "multipleOf"]),
        inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_any_value_is_walked_or_refused(value):
    try:
        schema = walk(value, "schema", closed=True)
    except ParameterError:
        return
    try:
        assert (
            Compiled(BYTES, f"start: {json_rule(schema)}").matcher(()).allowed(1 << 20) is not None
        )
    except (ParameterError, EngineError) as error:  # a pattern or a format that fits nothing
        assert "nsatisf" in str(error) or "empty" in str(error)  # noqa: PT017
