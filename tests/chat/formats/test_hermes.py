"""Hermes' format: JSON between tags, round trips, faults."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import is_linear
from lorakit.chat.calls import ToolCall
from lorakit.chat.formats.hermes import HERMES
from lorakit.errors import ParameterError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars.filter(lambda v: v not in (float("inf"), float("-inf"))),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4),
)
calls = st.builds(
    lambda name, arguments: ToolCall(name=name, arguments=arguments),
    st.text(min_size=1),
    st.dictionaries(st.text(), values, max_size=4),
)


def call(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


@given(expected=st.lists(calls, max_size=4))
@settings(deadline=None)
def test_what_is_rendered_is_parsed_again(expected):
    reply = HERMES.parse("\n".join(map(HERMES.render_call, expected)))
    assert not reply.malformed
    found = [(c.name, c.arguments) for c in reply.tool_calls]
    assert repr(found) == repr([(c.name, c.arguments) for c in expected])
    assert reply.text == ""


PARTS = ["<tool_call>", "</tool_call>", '{"name":', '"f"', ',"arguments":', "{}", "}", "[", '"']
PARTS.extend(["NaN", "1", "\\", "\n", "x", "<|im_end|>"])


@given(parts=st.lists(st.sampled_from(PARTS)))
@settings(deadline=None)
def test_no_text_raises_and_nothing_is_lost(parts):
    text = "".join(parts)
    reply = HERMES.parse(text)
    assert "<tool_call>" not in text or reply.tool_calls or reply.malformed
    for part in reply.malformed:
        assert text[part.position :].startswith(part.text)
    if not reply.tool_calls and not reply.malformed:
        assert reply.text == text


@pytest.mark.parametrize(
    ("reply", "arguments"),
    [
        (call('{"name": "f", "arguments": {"a": "</tool_call>"}}'), {"a": "</tool_call>"}),
        (call('{"arguments": {"a": [1, {"b": null}]}, "name": "f"}'), {"a": [1, {"b": None}]}),
        (call('{"name": "f"}'), {}),
        (call('{"name": "f", "parameters": {"a": 1}}'), {"a": 1}),
        (call('{"name": "f", "arguments": "{\\"a\\": 1}"}'), {"a": 1}),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', {"a": 1}),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}<|im_end|>', {"a": 1}),
        (call('{"name": "f", "arguments": {"a": "' + "日" * 1000 + '"}}'), {"a": "日" * 1000}),
        (call('{"name": "f", "arguments": {"a": ' + " " * 1000 + "1}}"), {"a": 1}),
    ],
)
def test_variants_are_read(reply, arguments):
    parsed = HERMES.parse(reply)
    assert not parsed.malformed
    assert [(c.name, c.arguments) for c in parsed.tool_calls] == [("f", arguments)]
    assert parsed.text == ""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"name": "f", "arguments": {"a": "', "not valid JSON"),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN"),
        ('{"name": "f", "arguments": {"a": 1e999}}', "too large"),
        ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "occurs twice"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 2000 + "}}", "digits"),
        ('{"name": "f", "arguments": [1]}', "must be an object"),
        ('{"name": "f", "arguments": "no"}', "quoted arguments"),
        ('{"name": "f", "arguments": {}, "parameters": {}}', "both"),
        ('{"name": 1}', "no name"),
        ("[1]", "expected a JSON object"),
        ('{"name": "f"} {"name": "g"}', "expected </tool_call>"),
        ("[" * 100_000, "not valid JSON|too deep"),
    ],
)
def test_faults_are_reported_with_a_reason(body, reason):
    parsed = HERMES.parse("before " + call(body))
    assert not parsed.tool_calls
    assert parsed.text == "before"
    assert len(parsed.malformed) == 1
    assert parsed.malformed[0].text == call(body)
    assert any(part in parsed.malformed[0].reason for part in reason.split("|"))


def test_a_fault_does_not_hide_the_calls_around_it():
    good, bad = call('{"name": "f", "arguments": {}}'), call('{"name": "f", oops}')
    parsed = HERMES.parse(f"Let me see.\n{good}\n{bad}\n{good}<|im_end|>")
    assert [c.name for c in parsed.tool_calls] == ["f", "f"]
    assert [part.text for part in parsed.malformed] == [bad]
    assert parsed.text == "Let me see."


def test_declarations_and_responses_are_json():
    assert HERMES.render_declaration({"name": "f"}) == (
        '{"type": "function", "function": {"name": "f"}}'
    )
    assert HERMES.render_response("f", {"a": "é"}) == (
        '<tool_response>\n{"a": "é"}\n</tool_response>'
    )
    with pytest.raises(ParameterError):
        HERMES.render_call(ToolCall(name="f", arguments={"a": float("nan")}))


@pytest.mark.parametrize(
    "unit",
    [
        "<tool_call>",
        '<tool_call>{"a',
        '<tool_call>{"a\\"',
        '<tool_call>{"a":[',
        "<tool_call>[[[[",
        '<tool_call>{"name":"f","arguments":{"a":1,"a":1}}\n',
        call('{"name":"f"}'),
        "</think>",
        "<think>",
        "<think></think>",
        "`<think>`",
        '<tool_call>{"a</think>',
        '<tool_call>{"a<think></think>',
        "<tool_call>[</think>",
    ],
)
def test_parsing_takes_linear_time(unit):
    assert is_linear(lambda count: HERMES.parse(unit * count), 2_000)


def test_quadratic_work_would_be_found():
    def quadratic(count):
        return ["x" * (count * 40) for _ in range(count)]

    assert not is_linear(quadratic, 400)
