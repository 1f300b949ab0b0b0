"""What holds for every format: what is written is read again, and what a constraint allows fits."""

import json
import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from walking_calls import accepts, declared, grammar_of, same, walk

from growth import is_linear
from lorakit.chat.calls import ToolCall
from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.tools import FORMATS, get_format, validate_call
from lorakit.errors import ParameterError

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
every = pytest.mark.parametrize("name", FORMATS)
HUGE = re.compile(r"[0-9][eE]\+?[0-9]{3}")  # the digits of an exponent are not counted


def names_a_key_twice(text):
    """Whether any JSON object in a text does: Qwen 3 Coder's value is then read as text."""
    found = []
    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: found.append(len(dict(pairs)) < len(pairs))
    )
    for brace in re.finditer(r"\{", text):
        with suppress(ValueError):
            decoder.raw_decode(text, brace.start())
    return any(found)


def bound(name, tool):
    """The format as a model with this tool has it."""
    form = get_format(name)
    return form.with_tools([tool]) if hasattr(form, "with_tools") else form


@every
@given(case=declared())
@few
def test_a_valid_call_is_written_read_and_allowed(name, case):
    tool, arguments = case
    form = bound(name, tool)
    call = ToolCall(name=tool["name"], arguments=arguments)
    assume(
        not (
            name == "qwen3coder"
            and " " in "".join(arguments) + "".join(tool["parameters"]["properties"])
        )
    )
    text = form.render_call(call)
    (read,) = form.parse(text).tool_calls
    assert read.name == call.name
    assert same(read.arguments, call.arguments)
    assert accepts(grammar_of(form, functions_of([tool])), text)


@every
def test_values_of_any_type_are_no_deeper_than_readers_go(name):
    tool = {"name": "f", "parameters": {"properties": {"a": {}}, "required": ["a"]}}
    form, depths = bound(name, tool), (16, 17, 80)
    values = ["[" * depth + "]" * depth for depth in depths]
    written = form.render_call(ToolCall(name="f", arguments={"a": []}))
    before, _, after = written.rpartition("[]") if name == "json" else written.partition("[]")
    allowed = [
        accepts(grammar_of(form, functions_of([tool])), before + value + after) for value in values
    ]
    assert allowed == [True, False, False]
    assert form.parse(before + values[0] + after).tool_calls
    assert form.parse(before + values[2] + after).malformed  # what would be written without a limit


@every
@given(case=declared(), seed=st.integers(0, 2**32))
@few
def test_what_a_constraint_allows_is_a_valid_call(name, case, seed):
    tool, _ = case
    form = bound(name, tool)
    assume(not (name == "qwen3coder" and " " in "".join(tool["parameters"]["properties"])))
    text = walk(grammar_of(form, functions_of([tool])), seed)
    assume(text is not None and not HUGE.search(text) and not names_a_key_twice(text))
    reply = form.parse(text)
    # What no grammar counts: a key that is not declared, twice.
    assume(not any("twice" in bad.reason for bad in reply.malformed))
    assert not reply.malformed
    assert reply.text == ""
    assert 1 <= len(reply.tool_calls) <= 2
    for call in reply.tool_calls:
        assert validate_call(call, [tool]) == []


WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city"],
    },
}


@every
@pytest.mark.parametrize(
    ("called", "arguments"),
    [
        ("wether", {"city": "Oslo"}),
        ("weather", {}),
        ("weather", {"city": 1}),
        ("weather", {"city": ["Oslo"]}),
        ("weather", {"city": "Oslo", "days": 8}),
        ("weather", {"city": "Oslo", "days": "2"}),
        ("weather", {"city": "Oslo", "unit": "K"}),
        ("weather", {"city": "Oslo", "when": "now"}),
    ],
)
def test_what_does_not_fit_cannot_be_written(name, called, arguments):
    form = get_format(name)  # without types: a text that is a number stands in quotes
    grammar = grammar_of(bound(name, WEATHER), functions_of([WEATHER]))
    good = ToolCall(name="weather", arguments={"city": "Oslo", "days": 2, "unit": "C"})
    assert accepts(grammar, form.render_call(good))
    bad = form.render_call(ToolCall(name=called, arguments=arguments))
    if name == "qwen3coder" and arguments.get("city", "") != "Oslo":
        (read,) = bound(name, WEATHER).parse(bad).tool_calls  # whatever stands there is a text
        assert accepts(grammar, bad) == (validate_call(read, [WEATHER]) == [])
    else:
        assert not accepts(grammar, bad)


@every
def test_a_schema_that_contains_itself_is_allowed(name):
    node = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
        "required": ["v"],
    }
    parameters = {
        "type": "object",
        "properties": {"list": {"$ref": "#/$defs/node"}},
        "required": ["list"],
        "$defs": {"node": node},
    }
    tool = {"name": "f", "parameters": parameters}
    form = bound(name, tool)
    grammar = grammar_of(form, functions_of([tool]))
    chain = {"v": 1, "next": {"v": 2}}
    assert accepts(grammar, form.render_call(ToolCall(name="f", arguments={"list": chain})))
    wrong = {"v": 1, "next": {"v": "x"}}
    assert not accepts(grammar, form.render_call(ToolCall(name="f", arguments={"list": wrong})))


@every
def test_several_tools_and_calls_are_allowed(name):
    tools = [WEATHER, {"name": "ping"}, {"name": "pin", "parameters": {"type": "object"}}]
    form = get_format(name)
    if hasattr(form, "with_tools"):
        form = form.with_tools(tools)
    grammar = grammar_of(form, functions_of(tools))
    for called in ("ping", "pin"):
        assert accepts(grammar, form.render_call(ToolCall(name=called, arguments={})))


PIECES = ["[", "]", "{", "}", ",", ":", '"', '{"name": "f", "arguments": {"a": 1}}', "f", "\n", "1"]
PIECES += ["[ARGS]", "[CALL_ID]", "```json\n", "```", "call:", "<parameter=a>", "</parameter>"]
PIECES += ["<function=f>", "</function>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<|/tool_call|>"]


@every
@given(data=st.data())
@few
def test_no_text_raises_and_nothing_is_lost(name, data):
    form = get_format(name)
    marks = [*form.openings, *form.stops, form.syntax.closing, "<think>"]
    parts = data.draw(st.lists(st.sampled_from(PIECES + marks) | st.text(max_size=4), max_size=12))
    text = "".join(parts)
    reply = form.parse(text)
    for bad in reply.malformed:
        assert text[bad.position :].startswith(bad.text)
    if not (reply.tool_calls or reply.malformed or "<think>" in text):
        assert reply.text == text
    if any(opening in text for opening in form.openings) and "<think>" not in text:
        assert reply.tool_calls or reply.malformed
    form.parse(text, repair=True)


@every
@given(data=st.binary(max_size=60))
@few
def test_random_bytes_never_raise(name, data):
    form = get_format(name)
    for opening in ("", *form.openings):
        form.parse(opening + data.decode(errors="replace"))


@every
def test_a_call_without_a_name_is_not_written(name):
    with pytest.raises(ParameterError):
        get_format(name).render_call(ToolCall(name=""))


CALL = '{"name":"f","arguments":{}}'
UNITS = {
    "qwen3coder": [
        "<tool_call><function=f>",
        '<tool_call>\n<function=f>\n<parameter=a>\n"x</parameter>',
        "<parameter=a>[1,\n</parameter>\n",
        "<function=f>\n<parameter=a>\n[1</parameter>\n",
    ],
    "llama3_function": ["<function=f>", '<function=f>{"a', "<function=f>{}</function>", "<f"],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS] [", f"[TOOL_CALLS] [{CALL}, ", f"{CALL}, "],
    "mistral11": ["[TOOL_CALLS]f[ARGS]", "[TOOL_CALLS]f[ARGS]{}", "[TOOL_CALLS]f"],
    "phi4": ["<|tool_call|>[", f"{CALL}, ", "functools[", '<|tool_call|>[{"a'],
    "deepseek": ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>f\n```json\n{"],
    "granite": ["<|tool_call|>[", f"{CALL}, ", "<tool_call>[", '<|tool_call|>[{"a'],
    "json": [CALL, f"[{CALL}]", "```", f"{CALL},"],
}
FIRST = {
    "qwen3coder": "<tool_call><function=f>",
    "mistral": "[TOOL_CALLS] [",
    "phi4": "<|tool_call|>[",
    "granite": "<|tool_call|>[",
    "json": CALL,
}


@pytest.mark.parametrize(
    ("name", "unit"), [(name, unit) for name, units in UNITS.items() for unit in units]
)
def test_parsing_takes_linear_time(name, unit):
    form, first = get_format(name), FIRST.get(name, "")
    assert is_linear(lambda count: form.parse(first + unit * count), 400)
