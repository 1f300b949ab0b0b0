"""Answers that fit, from the command line: an expression, a schema, a grammar of either kind."""

import json
import re

import pytest

from commands import invoke
from lorakit import demo

TOOLS = [
    {"name": name, "parameters": {"type": "object", "required": ["state"], "properties": {
        "state": {"type": "string", "enum": ["on", "off"]}}}}
    for name in ("set_lights", "set_heating")
]  # fmt: skip


def ran(*options):
    done = invoke("run", demo.base_path(), "hello", *options, "--json", "--max-tokens", 40)
    assert done.error is None
    return json.loads(done.stdout)


def answer(*options):
    return ran(*options)["text"]


@pytest.fixture
def tools(tmp_path):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS))
    return ["--tools", path]


def test_an_answer_calls_where_it_is_told_to(tools):
    assert ran(*tools)["tool_calls"] == []
    for choice, names in (("required", ["set_lights", "set_heating"]), ("set_heating", None)):
        (call,) = ran(*tools, "--tool-choice", choice)["tool_calls"]
        assert call["function"]["name"] in (names or [choice])
        assert json.loads(call["function"]["arguments"])["state"] in ("on", "off")


@pytest.mark.parametrize("choice", ["set_light", "required"])
def test_a_choice_that_is_none_is_refused(tools, choice):
    known = tools if choice != "required" else []
    done = invoke("run", demo.base_path(), "hello", *known, "--tool-choice", choice)
    assert done.error.code == "parameter_invalid"
    assert ("did you mean set_lights" if known else "there are no tools") in str(done.error)


def test_lookup_changes_no_answer():
    assert answer("--lookup") == answer("--no-lookup") == answer()


def test_a_broken_call_is_mended_where_that_is_asked_for(tmp_path):
    grammar = tmp_path / "broken.txt"
    grammar.write_text('start: <start_function_call> "call:f{a:1,}" <end_function_call>')
    asked = ["--grammar", grammar]
    assert ran(*asked)["tool_calls"] == []
    (call,) = ran(*asked, "--repair")["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}


@pytest.mark.parametrize("option", [["--tool-choice", "auto"], ["--repair"]])
def test_a_raw_prompt_has_no_calls(option):
    done = invoke("run", demo.base_path(), "hello", "--raw", *option)
    assert f"{option[0]} is for" in str(done.error)


def test_an_answer_fits_an_expression_or_a_schema(tmp_path):
    assert re.fullmatch("[0-9]{3}", answer("--regex", "[0-9]{3}"))
    schema = {"properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    closed = {**schema, "additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(closed))
    found = answer("--json-schema", tmp_path / "schema.json")
    assert json.loads(found).keys() == {"a"}


def test_an_answer_is_one_of_several():
    assert answer("--choice", "late", "--choice", "early") in ("late", "early")


@pytest.mark.parametrize("wrap", ["schema", "json_schema"])
def test_a_schema_may_be_as_openai_nests_it(tmp_path, wrap):
    inner = {"name": "late", "strict": True, "schema": {"type": "boolean"}}
    whole = {"type": "json_schema", "json_schema": inner}
    (tmp_path / "schema.json").write_text(json.dumps(inner if wrap == "schema" else whole))
    assert answer("--json-schema", tmp_path / "schema.json") in ("true", "false")


@pytest.mark.parametrize("grammar", ['root ::= "yes" | "no"', 'start: "yes" | "no"'])
def test_a_grammar_is_for_every_engine(tmp_path, grammar):
    (tmp_path / "answer.txt").write_text(grammar)
    assert answer("--grammar", tmp_path / "answer.txt") in ("yes", "no")


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1]", "holds no JSON object"), ("{", "is not valid JSON"), ('{"not": {}}', "'not'")],
)
def test_what_is_no_schema_is_refused(tmp_path, content, said):
    (tmp_path / "schema.json").write_text(content)
    done = invoke("run", demo.base_path(), "hello", "--json-schema", tmp_path / "schema.json")
    assert done.error.code == "parameter_invalid"
    assert said in str(done.error)
