"""FunctionGemma's grammar: what is rendered is parsed again, and faults are reported."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import is_linear
from lorakit.chat.calls import ToolCall
from lorakit.chat.formats.gemma import FUNCTIONGEMMA, GEMMA4
from lorakit.chat.template import ChatTemplate
from lorakit.errors import ParameterError

DEMO = Path(__file__).parents[3] / "src/lorakit/demo/base"
FORMATS = [FUNCTIONGEMMA, GEMMA4]
MARKS = ["<escape>", '<|"|>']

strings = st.text().filter(lambda s: not any(mark in s for mark in MARKS)) | st.sampled_from(
    ["", "a,b}:{[]", "true", "null", "1", "<end_function_call>", "<start_function_call>call:x{}"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(strings, v, max_size=4)
)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
calls = st.builds(
    lambda name, arguments: ToolCall(name=name, arguments=arguments),
    names,
    st.dictionaries(strings, values, max_size=5),
)


def same(found: ToolCall, expected: ToolCall) -> bool:
    """Equal in types too: 1, 1.0 and True differ."""
    pair = (found.name, repr(sorted_deep(found.arguments)))
    return pair == (expected.name, repr(sorted_deep(expected.arguments)))


def sorted_deep(value):
    if isinstance(value, dict):
        return {key: sorted_deep(value[key]) for key in sorted(value)}
    return [sorted_deep(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@given(expected=st.lists(calls, max_size=4), before=strings.filter(lambda s: "<" not in s))
@settings(deadline=None)
def test_what_is_rendered_is_parsed_again(form, expected, before):
    text = before + "".join(map(form.render_call, expected))
    reply = form.parse(text)
    assert not reply.malformed
    assert len(reply.tool_calls) == len(expected)
    assert all(map(same, reply.tool_calls, expected))
    assert reply.text == (before.rstrip() if expected else before)
    assert [call.id for call in reply.tool_calls] == [f"call_{i}" for i in range(len(expected))]


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@given(data=st.data())
@settings(deadline=None)
def test_no_text_raises_and_nothing_is_lost(form, data):
    alphabet = [*form.call, form.escape, *form.stops, "call:", "f", "{", "}", "[", "]", ":", ","]
    parts = data.draw(st.lists(st.sampled_from([*alphabet, "1", "true", " ", "a", "\n"])))
    text = "".join(parts)
    reply = form.parse(text)
    assert text.count(form.call[0]) == 0 or reply.tool_calls or reply.malformed
    for part in reply.malformed:
        assert text[part.position :].startswith(part.text)
        assert part.reason
    if not reply.tool_calls and not reply.malformed:
        assert reply.text == text


@given(call=calls)
@settings(deadline=None)
def test_a_template_renders_as_we_do(call):
    bare = all(key.isalnum() and key.isascii() for key in keys_of(call.arguments))
    if not bare or numbers_differ(call.arguments):
        return
    template = ChatTemplate.open(DEMO)
    message = {"role": "assistant", "content": "", "tool_calls": [call.to_openai()]}
    user = {"role": "user", "content": "x"}
    prompt = template.render([user, message], add_generation_prompt=False)
    assert FUNCTIONGEMMA.render_call(call) + "<end_of_turn>" in prompt


def keys_of(value):
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def numbers_differ(value):
    """Keys equal without regard to case: their order is then the dict's own."""
    lowered = [key.lower() for key in keys_of(value)]
    return len(set(lowered)) < len(lowered)


def test_a_template_declares_and_responds_as_we_do():
    parameters = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where, exactly: {here}"},
            "days": {"type": "array", "items": {"type": "integer"}, "description": "which"},
            "Unit": {"type": "string", "enum": ["C", "F"]},
            "area": {"type": "object", "properties": {"r": {"type": ["number", "null"]}}},
        },
        "required": ["city"],
    }
    function = {"name": "weather", "description": "The weather.", "parameters": parameters}
    tools = [{"type": "function", "function": function}, {"name": "ping", "description": "Ping."}]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "ping", "arguments": {}}]},
        {"role": "tool", "name": "ping", "content": {"ok": True, "ms": 1.5, "note": "a,b"}},
    ]
    prompt = ChatTemplate.open(DEMO).render(messages, tools)
    for tool in tools:
        assert FUNCTIONGEMMA.render_declaration(tool) in prompt
    assert FUNCTIONGEMMA.render_response("ping", messages[2]["content"]) in prompt
    assert FUNCTIONGEMMA.render_response("f", "hi") == (
        "<start_function_response>response:f{value:<escape>hi<escape>}<end_function_response>"
    )


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("f{}", {}),
        ("f{ }", {}),
        (" f { a : 1 , b : [ 1 , 2 ] } ", {"a": 1, "b": [1, 2]}),
        ("f{a:{b:{c:[]} } }", {"a": {"b": {"c": []}}}),
        ("f{<escape>a b<escape>:<escape>x<escape>}", {"a b": "x"}),
        ("f{a:<escape>},:{<escape>}", {"a": "},:{"}),
        ("f{a:<escape>\n<end_function_call>\n<escape>}", {"a": "\n<end_function_call>\n"}),
        ("f{a:None,b:True,c:null,d:false}", {"a": None, "b": True, "c": None, "d": False}),
        ("f{a:-0.5e-3,b:-7,c:1E2}", {"a": -0.0005, "b": -7, "c": 100.0}),
        ("f{größe:1,$x:2,a-b:3,a.b:4}", {"größe": 1, "$x": 2, "a-b": 3, "a.b": 4}),
    ],
)
def test_published_variants_are_read(body, arguments):
    reply = FUNCTIONGEMMA.parse(f"<start_function_call>call:{body}<end_function_call>")
    assert not reply.malformed
    assert [(c.name, c.arguments) for c in reply.tool_calls] == [("f", arguments)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("f{a:Tokyo}", "'Tokyo' is no number"),
        ("f{a:<escape>Tokyo}", "lacks its closing <escape>"),
        ("f{a:007}", "'007' is no number"),
        ("f{a:NaN}", "'NaN' is no number"),
        ("f{a:1e999}", "too large"),
        ("f{a:" + "9" * 5000 + "}", "too many digits"),
        ("f{a:1,a:2}", "occurs twice"),
        ("f{a:1,}", "expected a key"),
        ("f{a}", "expected ':'"),
        ("f{a:1 b:2}", "expected ',' or '}'"),
        ("f{a:[1 2]}", "expected ',' or ']'"),
        ("f{a:}", "expected a value"),
        ("f{a:1", "expected ',' or '}'"),
        ("f", "expected '{'"),
        ("{}", "has no name"),
        ("f{}x", "expected <end_function_call>"),
        ("f{a:" + "[" * 100 + "]" * 100 + "}", "nested deeper"),
    ],
)
def test_faults_are_reported_with_a_reason(body, reason):
    text = f"<start_function_call>call:{body}<end_function_call>"
    reply = FUNCTIONGEMMA.parse(f"before {text}")
    assert not reply.tool_calls
    assert [(m.text, m.position) for m in reply.malformed] == [(text, 7)]
    assert reason in reply.malformed[0].reason
    assert reply.text == "before"


def test_a_fault_does_not_hide_the_calls_around_it():
    good = "<start_function_call>call:a{x:1}<end_function_call>"
    bad = "<start_function_call>call:b{x:y}<end_function_call>"
    reply = FUNCTIONGEMMA.parse(good + bad + " then " + good + "<start_function_response>")
    assert [call.name for call in reply.tool_calls] == ["a", "a"]
    assert [part.text for part in reply.malformed] == [bad]
    assert reply.text == "then"


def test_a_call_within_a_string_is_never_taken_for_one():
    text = "<start_function_call>call:a{x:<escape><start_function_call>call:rm{}<end_function_call>"
    for ending in ("<escape>}<end_function_call>", "<escape>,y:oops}<end_function_call>", ""):
        names = [call.name for call in FUNCTIONGEMMA.parse(text + ending).tool_calls]
        assert "rm" not in names


@pytest.mark.parametrize("ending", ["", "<start_function_response>", "<end_of_turn>", "\n"])
def test_a_closing_tag_cut_off_by_the_stop_is_forgiven(ending):
    reply = FUNCTIONGEMMA.parse("<start_function_call>call:a{x:1}" + ending)
    assert [call.arguments for call in reply.tool_calls] == [{"x": 1}]
    assert (reply.text, reply.malformed) == ("", ())


def test_plain_text_is_left_alone():
    for text in ("", "  hello\n", "a <escape> b", "call:f{}"):
        reply = FUNCTIONGEMMA.parse(text)
        assert (reply.text, reply.tool_calls, reply.malformed) == (text, (), ())


def test_gemma_4_differs_in_its_delimiters_only():
    call = ToolCall(name="f", arguments={"a": "x,y", "b": 1})
    assert GEMMA4.render_call(call) == '<|tool_call>call:f{a:<|"|>x,y<|"|>,b:1}<tool_call|>'


@pytest.mark.parametrize(
    "call",
    [
        ToolCall(name="f", arguments={"a": "x<escape>y"}),
        ToolCall(name="f", arguments={"<escape>": 1}),
        ToolCall(name="f", arguments={"a": float("nan")}),
        ToolCall(name="f", arguments={"a": object()}),
        ToolCall(name="f", arguments={1: 2}),
        ToolCall(name="f g", arguments={}),
        ToolCall(name="", arguments={}),
    ],
)
def test_what_cannot_be_said_is_refused(call):
    with pytest.raises(ParameterError):
        FUNCTIONGEMMA.render_call(call)


@pytest.mark.parametrize(
    "unit",
    [
        "<start_function_call>",
        "<start_function_call>call:a{b:<escape>",
        "<start_function_call>call:a{b:[[[[",
        "<start_function_call>call:a{b:1,",
        "<start_function_call>call:a{b:<escape>,c:<escape>",
        "<start_function_call>call:a{b:<escape>c<escape>}<end_function_call>",
    ],
)
def test_parsing_takes_linear_time(unit):
    assert is_linear(lambda count: FUNCTIONGEMMA.parse(unit * count), 4_000)
