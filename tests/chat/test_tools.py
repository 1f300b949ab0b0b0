"""Recognising a format, and checking calls against the tools that were offered."""

from pathlib import Path

import pytest

from lorakit.chat.calls import ToolCall
from lorakit.chat.template import ChatTemplate
from lorakit.chat.tools import FORMATS, detect_format, get_format, validate_call
from lorakit.errors import ParameterError
from lorakit.text.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "src/lorakit/demo/base"
TEMPLATES = Path(__file__).parents[1] / "data/templates"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *((name, name) for name in FORMATS if name not in ("hermes", "gemma4")),
        ("chatml_tools", "hermes"),
        ("gemma", None),
    ],
)
def test_a_template_tells_the_format(file, name):
    text = (TEMPLATES / f"{file}.jinja").read_text(encoding="utf-8")
    found = detect_format(text)
    assert (found.name if found else None) == name


WRITTEN = {  # by our own templates, which write as the models' own do
    "chatml_tools": "hermes",
    **{name: name for name in FORMATS if name not in ("hermes", "gemma4")},
}


@pytest.mark.parametrize(("file", "name"), WRITTEN.items())
def test_a_template_writes_calls_as_the_format_does(file, name):
    template = ChatTemplate(
        sources={"default": (TEMPLATES / f"{file}.jinja").read_text(encoding="utf-8")}
    )
    call = ToolCall(name="weather", arguments={"city": "Oslo", "days": 2})
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call.to_openai()]},
    ]
    prompt = template.render(messages, [WEATHER], add_generation_prompt=False)
    assert get_format(name).render_call(call) in prompt


@pytest.mark.parametrize(
    ("signs", "name"),
    [
        ("<tool_call>\n<function=name>\n<parameter=arguments>", "qwen3coder"),
        ("<seed:tool_call>\n<function=name>\n<parameter=arguments>", None),
        ("<tool_call>{{ name }}<arg_key>arguments</arg_key>", None),  # GLM
        ('<|start_header_id|> ipython {"name": f, "parameters": {}}', "llama3"),
        ('<|start_header_id|> ipython "parameters": <function=f>{}</function>', "llama3_function"),
        # Llama 3's turns, and other calls: ToolACE's Python, xLAM's list, Nemotron's tag
        ("<|start_header_id|> ipython lacks the parameters, [f(a=1)], tools in JSON", None),
        (
            '<|start_header_id|> ipython parameters; tools: JSON [{"name": f, "arguments": a}]',
            "json",
        ),
        ('<|start_header_id|> ipython "parameters" <TOOLCALL>[{"name": f}]</TOOLCALL>', None),
        ('<|start_header_id|> ipython "parameters" >>>f\n{}', None),  # Functionary 3.2
        # templates that speak of <tool_call>, of models that write otherwise
        ('within <tool_call></tool_call>: <tool_calls>[{"name": f, "arguments": a}]', None),
        ("<use_mcp_tool><arguments></use_mcp_tool> <tool_call> arguments", None),
        ("]<]x[>[<tool_call> arguments <invoke name=", None),  # MiniMax M3
        ("<|start_of_role|> arguments <tool_call>", "hermes"),  # Granite 4
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", None),  # DeepSeek V3.1
        ('tools: answer in JSON: {"name": "f", "arguments": {}}', "json"),
        ('tools: answer in JSON: <TOOLCALL>[{"name": "f", "arguments": {}}]</TOOLCALL>', None),
        ('answer in JSON: {"name": "f", "arguments": {}}', None),
    ],
)
def test_forms_that_are_alike_are_told_apart(signs, name):
    found = detect_format(signs)
    assert (found.name if found else None) == name


def test_the_demo_base_is_recognised_by_template_and_by_vocabulary():
    tokenizer = Tokenizer.open(DEMO)
    for template in (ChatTemplate.open(DEMO).source(tools=True), None, "plain"):
        found = detect_format(template, tokenizer.token_id)
        assert found is not None
        assert found.name == "functiongemma"


def test_nothing_is_recognised_in_nothing():
    assert detect_format(None) is None
    assert detect_format("", lambda token: None) is None


def test_every_format_says_what_it_needs():
    for name in FORMATS:
        form = get_format(name)
        assert form.name == name
        assert bool(form.openings) == (name != "json")
        assert bool(form.stops) == (name != "json")
        declared = form.render_declaration(WEATHER)
        assert "weather" in declared
        assert "city" in declared
        call = ToolCall(name="weather", arguments={"city": "Oslo", "days": 2})
        (parsed,) = form.parse(form.render_call(call)).tool_calls
        assert (parsed.name, parsed.arguments) == (call.name, call.arguments)
        assert form.render_call(call).startswith(form.openings) or name in ("llama3", "json")
    with pytest.raises(ParameterError, match="known: functiongemma"):
        get_format("smoke signals")


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("weather", {"city": "Oslo"}, []),
        ("weather", {"city": "Oslo", "days": 3}, []),
        ("weather", {}, ["weather.city: required, but missing"]),
        ("weather", {"city": 1, "x": 2}, ["weather.city: expected", "weather.x: unknown"]),
        ("wether", {}, ["wether: no such function; offered: ping, weather"]),
        ("ping", {}, []),
        ("ping", {"a": 1}, ["ping.a: unknown; expected no arguments"]),
    ],
)
def test_a_call_is_checked_against_the_tools(name, arguments, expected):
    found = validate_call(ToolCall(name=name, arguments=arguments), [WEATHER, {"name": "ping"}])
    assert len(found) == len(expected)
    assert all(map(str.startswith, found, expected))


def test_a_reply_becomes_the_next_message():
    text = "<start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call>"
    message = get_format("functiongemma").parse("Well. " + text).to_message()
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert message == {
        "role": "assistant",
        "content": "Well.",
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }
    assert get_format("hermes").parse("").to_message() == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "f()"),
        ({"state": "off", "n": 2}, 'f(state="off", n=2)'),
        (
            {"on": True, "x": None, "l": ["é", {"k": 1.5}]},
            'f(on=True, x=None, l=["é", {"k": 1.5}])',
        ),
        ({"class": 1, "a b": 2}, 'f(**{"class": 1, "a b": 2})'),
    ],
)
def test_a_call_prints_as_code(arguments, said):
    call = ToolCall(name="f", arguments=arguments)
    assert str(call) == said
    assert str(call) != repr(call)  # what it would print by itself
