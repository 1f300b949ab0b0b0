"""Answers that fit, from the command line: an expression, a schema, a grammar of either kind."""

import json
import re

import pytest

from commands import invoke
from lorakit import demo


def answer(*options):
    done = invoke("run", demo.base_path(), "hello", *options, "--json", "--max-tokens", 40)
    assert done.error is None
    return json.loads(done.stdout)["text"]


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
