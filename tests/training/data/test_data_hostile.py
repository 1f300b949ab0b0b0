"""Whatever stands in a file, it is an example or a fault, and never an exception."""

import json
import random

import pytest
from data_cases import call, calls_of, row, tool, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit.errors import FormatError, SourceError
from lorakit.training.data import Augmenter, expand_examples, read_examples, repeats, stats_of
from lorakit.training.data.phrasing import phrasing_of
from lorakit.training.data.shapes import SHAPES

KEYS = sorted({key for shape in SHAPES for key in (*shape.required, *shape.optional)})
INNER = ["role", "content", "tool_calls", "function", "name", "arguments", "from", "value", "type"]
TEXT = st.one_of(
    st.sampled_from(["user", "assistant", "model", "human", "gpt", "function_call", "{", "[]", ""]),
    st.text(max_size=20),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.integers(10**400, 10**401)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(INNER), inner, max_size=4)
    ),
    max_leaves=12,
)
SCHEMA = st.dictionaries(
    st.sampled_from(
        ["type", "enum", "minimum", "maximum", "pattern", "format", "items", "properties", "const"]
    ),
    st.one_of(JSON, st.sampled_from(["string", "integer", "number"])),
    max_size=3,
)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(records=st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), max_size=4))
def test_any_row_is_an_example_or_a_fault(tmp_path, records):
    data = read_examples(write_rows(tmp_path / "a.jsonl", records))
    assert len(data.examples) + len(data.faults) == len(records)
    list(repeats(data.examples))
    json.dumps(stats_of(data.examples).to_dict())
    augmenter, rng = Augmenter(data.examples, 0), random.Random(0)
    for example in data.examples:
        augmenter.draw(rng, example)


@QUICK
@given(content=st.binary(max_size=200), ending=st.sampled_from(["jsonl", "json", "csv", "tsv"]))
def test_any_bytes_are_read_or_refused(tmp_path, content, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    try:
        read_examples(path)
    except FormatError:
        assert ending == "json" or content.lstrip(b"\xef\xbb\xbf \t\r\n\v\f").startswith(
            (b"[", b"PAR1", b"ARROW1", b"\x1f\x8b", b"PK")
        )


@QUICK
@given(
    schema=SCHEMA,
    values=st.lists(
        st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=30)), max_size=6
    ),
    words=st.lists(st.text(max_size=8), min_size=6, max_size=6),
)
def test_whatever_the_schema_draws_fit_it(tmp_path, schema, values, words):
    rows = [
        row(f"a {word} {value} b", call("x", y=value))
        for word, value in zip(words, values, strict=False)
    ]
    path = write_rows(tmp_path / "a.jsonl", rows, [tool("x", y=schema)])
    examples = read_examples(path).examples
    for example in list(expand_examples(examples, 20))[len(examples) :]:
        assert phrasing_of(example.messages) == example.phrasing
        again = write_rows(tmp_path / "b.jsonl", [{"messages": list(example.messages)}], None)
        assert calls_of(read_examples(again).require()[0]) == calls_of(example)


def test_not_a_number_is_no_value(tmp_path):
    lines = [
        json.dumps(row(f"to {value}", call("x", y=float(value)))) for value in ("nan", "inf", "1")
    ]
    path = write_rows(tmp_path / "a.jsonl", lines, [tool("x", y={"type": "number"})])
    data = read_examples(path)
    assert [fault.reason for fault in data.faults] == ["x.y: not finite"] * 2
    assert len(data.examples) == 1


@pytest.mark.parametrize("depth", [70, 900, 5000, 100_000])
def test_deep_values_are_faults(tmp_path, depth):
    deep = "[" * depth + "]" * depth
    lines = [
        f'{{"text": {deep}}}',
        f'{{"messages": {deep}}}',
        f'{{"request": "x", "reply": "y", "tools": {deep}}}',
        f'{{"request": "x", "call": {{"name": "x", "arguments": {{"y": {deep}}}}}}}',
        f'{{"userQuery": "x", "expectedToolCalls": "{deep}"}}',
    ]
    data = read_examples(write_rows(tmp_path / "a.jsonl", lines))
    assert len(data.faults) == len(lines)


@pytest.mark.parametrize("sender", [["human"], {"a": 1}, None, 5])
def test_a_sender_that_is_no_word_is_a_fault(tmp_path, sender):
    turns = [{"from": sender, "value": "hi"}, {"from": "gpt", "value": "Hello!"}]
    data = read_examples(write_rows(tmp_path / "a.jsonl", [{"conversations": turns}]))
    assert [fault.code for fault in data.faults] == ["message_invalid"]


def test_a_key_that_arguments_name_twice_loses_no_value(tmp_path):
    twice = '{"room": "hall", "room": "bath"}'
    rows = [
        row("light in the hall", {"name": "light", "arguments": twice}),
        {"userQuery": "light in the hall", "expectedToolCalls": json.dumps([call("light")])[:-1]
         + f', {{"name": "light", "arguments": {twice}}}]'},
        {"request": "light in the hall", "call": {"name": "light", "arguments": twice}},
    ]  # fmt: skip
    data = read_examples(write_rows(tmp_path / "a.jsonl", rows))
    codes = ["message_invalid", "json_invalid", "message_invalid"]
    assert [fault.code for fault in data.faults] == codes
    assert all("'room' is there twice" in fault.reason for fault in data.faults)


def test_a_path_without_a_name_is_said_to_be_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        read_examples(".")
