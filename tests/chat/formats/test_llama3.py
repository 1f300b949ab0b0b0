"""Llama 3's JSON calls: what is a call, what is text, what is a fault."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import is_linear
from lorakit.chat.calls import ToolCall
from lorakit.chat.formats.llama3 import LLAMA3

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4),
)


@given(
    arguments=st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=3),
    tag=st.booleans(),
    separator=st.sampled_from(["; ", "\n", "", ";", "<|python_tag|>"]),
)
@settings(deadline=None)
def test_what_is_rendered_is_parsed_again(arguments, tag, separator):
    calls = [ToolCall(name="f", arguments=a) for a in arguments]
    text = ("<|python_tag|>" if tag else "") + separator.join(map(LLAMA3.render_call, calls))
    reply = LLAMA3.parse(text)
    assert not reply.malformed
    assert repr([c.arguments for c in reply.tool_calls]) == repr(arguments)
    assert reply.text == ""


@given(text=st.text(alphabet='{}[]":,;name parmts1|<>_'))
@settings(deadline=None)
def test_no_text_raises(text):
    reply = LLAMA3.parse(text)
    if not reply.tool_calls and not reply.malformed and "<|python_tag|>" not in text:
        assert reply.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The weather is fine.",
        ' {"city": "Oslo"}',
        '{"name": "Bob", "age": 3}',
        '{"name": "Bob"',
        '{"name": 1, "parameters": 2}'.replace("parameters", "size"),
        'Use {"name": "f", "parameters": {}} for that.',
        "[1, 2]",
        "{",
    ],
)
def test_what_is_no_call_stays_text(text):
    reply = LLAMA3.parse(text)
    assert (reply.text, reply.tool_calls, reply.malformed) == (text, (), ())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', ["f"]),
        ('\n{"type": "function", "name": "f", "parameters": {}}<|eom_id|>', ["f"]),
        ('{"name": "f", "arguments": {}}<|eot_id|>', ["f"]),
        ('Sure.<|python_tag|>{"name": "f", "parameters": {}}', ["f"]),
        ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', ["f", "g"]),
        ('{"name": "f", "parameters": "{\\"a\\": 1}"}', ["f"]),
    ],
)
def test_calls_are_found(text, names):
    reply = LLAMA3.parse(text)
    assert [c.name for c in reply.tool_calls] == names
    assert not reply.malformed
    assert reply.text == ("Sure." if text.startswith("Sure") else "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "f", "parameters": {"a": }}', "not valid JSON"),
        ('{"name": "f", "parameters": {"a": 1', "not valid JSON"),
        ('{"name": "f", "parameters": [1]}', "must be an object"),
        ("<|python_tag|>get_weather.call(city='Oslo')", "not valid JSON"),
        ("<|python_tag|>", "no call follows"),
        ('<|python_tag|>{"name": "f"}', "no parameters"),
        ('{"name": "f", "parameters": {}} and more', "not valid JSON"),
    ],
)
def test_faults_are_reported(text, reason):
    reply = LLAMA3.parse(text)
    assert len(reply.malformed) == 1
    part = reply.malformed[0]
    assert reason in part.reason
    assert text[part.position :] == part.text


def test_a_response_is_json():
    assert LLAMA3.render_response("f", "sunny") == '{"output": "sunny"}'
    assert LLAMA3.render_response("f", {"a": 1}) == '{"a": 1}'


@pytest.mark.parametrize(
    "unit", ["{", '{"name":"f","parameters":{}};', '{"name":"', "<|python_tag|>"]
)
def test_parsing_takes_linear_time(unit):
    assert is_linear(
        lambda count: LLAMA3.parse('{"name":"f","parameters":{}}' + unit * count), 2_000
    )
