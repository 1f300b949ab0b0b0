"""When is a call the one that was wanted? By the types of the schema, calls in any order."""

import unicodedata

import pytest
from evaluate_cases import call, tool

from lorakit.training.evaluate.matching import match_calls, schemas_of

LIST = {"type": "array", "items": {"type": "string"}}
TOOLS = [
    tool("set", required=["room"], level="number", count="integer", name="string", on="boolean",
         room="string", unit={"type": "string", "default": "C"}, days=LIST,
         tags={**LIST, "uniqueItems": True}, place={"$ref": "#/$defs/place"}, note="string"),
    tool("get", city="string"),
]  # fmt: skip
TOOLS[0]["function"]["parameters"]["$defs"] = {
    "place": {"type": "object", "properties": {"floor": {"type": "number", "default": 0}}}
}
SCHEMAS = schemas_of(TOOLS)

EQUAL = {
    "an integer for a number": ({"level": 5.0}, {"level": 5}),
    "a number for an integer": ({"count": 5}, {"count": 5.0}),
    "another spelling of an exponent": ({"level": 1e3}, {"level": 1000}),
    "a composed letter": ({"name": "Zo\u00eb"}, {"name": unicodedata.normalize("NFD", "Zo\u00eb")}),
    "a default left out": ({"unit": "C"}, {}),
    "a default said": ({}, {"unit": "C"}),
    "null for what is not required": ({}, {"note": None}),
    "unique items in another order": ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}),
    "a default inside, by reference": ({"place": {"floor": 0}}, {"place": {}}),
    "another order of keys": ({"level": 1, "count": 2}, {"count": 2, "level": 1}),
}
DIFFERENT = {
    "a string for a number": ({"level": 5}, {"level": "5"}, "type"),
    "a number for a string": ({"name": "5"}, {"name": 5}, "type"),
    "a string for a boolean": ({"on": True}, {"on": "true"}, "type"),
    "one for true": ({"on": True}, {"on": 1}, "value"),
    "true for one": ({"count": 1}, {"count": True}, "value"),
    "another number": ({"level": 5}, {"level": 5.5}, "value"),
    "another case": ({"name": "Anna"}, {"name": "anna"}, "value"),
    "a space": ({"name": "Anna"}, {"name": "Anna "}, "value"),
    "not the default": ({}, {"unit": "F"}, "extra"),
    "not the default either": ({"unit": "F"}, {}, "missing"),
    "null for what is required": ({}, {"room": None}, "extra"),
    "a list in another order": ({"days": ["a", "b"]}, {"days": ["b", "a"]}, "value"),
    "a shorter list": ({"tags": ["a", "b"]}, {"tags": ["a"]}, "value"),
    "twice the same item": ({"tags": ["a", "b"]}, {"tags": ["a", "a"]}, "value"),
    "missing": ({"note": "x"}, {}, "missing"),
    "an argument that there is not": ({}, {"colour": "red"}, "extra"),
    "inside": ({"place": {"floor": 1}}, {"place": {"floor": 2}}, "value"),
}


def one(a, b):
    (pair,) = match_calls([call("set", **a)], [call("set", **b)], SCHEMAS)
    return pair


@pytest.mark.parametrize("name", EQUAL)
def test_equal_by_the_schema(name):
    a, b = EQUAL[name]
    assert one(a, b).exact
    assert one(b, a).exact


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_by_the_schema(name):
    a, b, kind = DIFFERENT[name]
    assert [fault for _, fault in one(a, b).faults] == [kind]
    assert not one(a, b).exact


def test_comparing_without_the_schema_would_be_seen():
    """Python's own equality, in the place of `same`, fails these cases and no others."""
    wrong = {name for name, (a, b) in EQUAL.items() if a != b}
    wrong |= {name for name, (a, b, _) in DIFFERENT.items() if a == b}
    assert wrong == {
        "a composed letter", "a default left out", "a default said",
        "null for what is not required", "unique items in another order",
        "a default inside, by reference", "one for true", "true for one",
    }  # fmt: skip


def names(pairs):
    return [(p.expected.name if p.expected else None, p.got.name if p.got else None) for p in pairs]


def test_calls_of_one_turn_come_in_any_order():
    wanted = [call("set", level=1), call("get", city="Oslo"), call("set", level=2)]
    for order in ((2, 1, 0), (1, 0, 2), (0, 2, 1)):
        assert all(p.exact for p in match_calls(wanted, [wanted[i] for i in order], SCHEMAS))
    found = match_calls(wanted, wanted[::-1], SCHEMAS, ordered=True)
    assert [p.exact for p in found] == [False, True, False]


def test_the_same_call_twice_needs_two():
    twice = [call("get", city="Oslo")] * 2
    assert all(p.exact for p in match_calls(twice, twice, SCHEMAS))
    found = match_calls(twice, twice[:1], SCHEMAS)
    assert [p.exact for p in found] == [True, False]
    assert names(found) == [("get", "get"), ("get", None)]
    assert names(match_calls(twice[:1], twice, SCHEMAS)) == [("get", "get"), (None, "get")]


def test_what_is_left_is_paired_with_the_most_similar():
    wanted = [call("set", level=1, count=1), call("set", level=2, count=2)]
    got = [call("get", city="Oslo"), call("set", level=2, count=3), call("set", level=1, count=1)]
    found = match_calls(wanted, got, SCHEMAS)
    assert found[0].exact
    assert found[1].faults == (("count", "value"),)
    assert (found[1].right, found[1].total) == (1, 2)
    assert names(found[2:]) == [(None, "get")]
    assert names(match_calls([call("set")], [call("get")], SCHEMAS)) == [("set", "get")]


def test_tools_without_a_schema_and_broken_ones():
    pair = match_calls([call("x", a=1)], [call("x", a=1.0)], {})[0]
    assert pair.exact
    for schema in ({"$ref": "#/nowhere"}, {"$ref": "elsewhere"}, {"properties": 3}, {"$ref": "#"}):
        assert match_calls([call("x", a=[1])], [call("x", a=[1.0])], {"x": schema})[0].exact
        assert not match_calls([call("x", a=[1])], [call("x", a=["1"])], {"x": schema})[0].exact


def test_many_calls_of_a_model_that_repeats_itself():
    got = [call("get", city=str(n)) for n in range(500)]
    found = match_calls([call("get", city="499")], got, SCHEMAS)
    assert found[0].exact
    assert len(found) == 500
