"""Qwen 3 Coder's format: bare texts, typed by the declared tools."""

import json

import pytest
from walking_calls import accepts, grammar_of

from lorakit.chat.calls import ToolCall
from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.events import CallArguments, CallWithdrawn
from lorakit.chat.formats.qwen3coder import QWEN3CODER
from lorakit.chat.reading import ReplyReader
from lorakit.errors import ParameterError

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "Does it.",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "kind": {"enum": ["1", "true"]},
                "n": {"type": "integer"},
                "any": {},
            },
            "additionalProperties": False,
        },
    },
}
TYPED = QWEN3CODER.with_tools([TOOL])
GRAMMAR = grammar_of(TYPED, functions_of([TOOL]))


def call(**parameters: str) -> str:
    inner = [f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in parameters.items()]
    return f"<tool_call>\n<function=f>\n{''.join(inner)}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("key", "text", "typed", "plain"),
    [
        ("code", "90210", "90210", 90210),
        ("code", "null", "null", None),
        ("code", '"x"', '"x"', "x"),
        ("code", " Oslo \n", " Oslo \n", " Oslo \n"),
        ("code", "", "", ""),
        ("code", "a\n<tool_call>\nb", "a\n<tool_call>\nb", "a\n<tool_call>\nb"),
        ("note", "null", None, None),
        ("note", "None", None, None),
        ("note", "12", "12", 12),
        ("kind", "1", "1", 1),
        ("n", "7", 7, 7),
        ("any", "True", True, True),
        ("any", '{"a": [1]}', {"a": [1]}, {"a": [1]}),
        ("any", '{"a": ', '{"a": ', '{"a": '),
        ("any", '["</parameter>"]', ["</parameter>"], ["</parameter>"]),
    ],
)
def test_a_value_is_what_its_type_says(key, text, typed, plain):
    for form, expected in ((TYPED, typed), (QWEN3CODER, plain)):
        reply = form.parse(call(**{key: text}))
        assert not reply.malformed
        ((found),) = reply.tool_calls
        assert repr(found.arguments) == repr({key: expected})


@pytest.mark.parametrize("value", ["90210", "null", '"x"', "[1", " 1 ", "", "None", "</parameter>"])
def test_texts_that_look_like_values_are_written_so_that_they_stay_texts(value):
    said = ToolCall(name="g", arguments={"a": value})
    for form in (QWEN3CODER, TYPED):  # TYPED does not know g
        (read,) = form.parse(form.render_call(said)).tool_calls
        assert read.arguments == {"a": value}


def test_a_text_stands_as_it_is_and_cannot_hold_its_end():
    written = TYPED.render_call(ToolCall(name="f", arguments={"code": "90210", "n": 1}))
    assert written == call(code="90210", n="1")
    for key, text in (("code", "a</parameter>"), ("note", "null")):
        with pytest.raises(ParameterError, match="cannot say this text"):
            TYPED.render_call(ToolCall(name="f", arguments={key: text}))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (call(code="90210"), True),
        (call(code="</parameter"), True),
        (call(code="x</parameter>"), False),
        (call(note="null"), True),
        (call(note="nullify 12"), True),
        (call(kind="1"), True),
        (call(kind="2"), False),
        (call(n="x"), False),
        (call(any="Oslo"), True),
        (call(any='"true"'), True),
        (call(any="[1, null]"), True),
        (call(any="[1, nul"), False),
        (call(code="x", n="1"), True),
        (call(n="1", code="x"), False),  # the declared order
        (call(code="x").replace("</function>\n", ""), False),
    ],
)
def test_a_constraint_allows_what_the_types_say(text, allowed):
    assert accepts(GRAMMAR, text) == allowed


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("<tool_call>", "expected <function="),
        ("<tool_call>\n<function=>", "a name is missing"),
        ("<tool_call>\n<function=f>\nx", "expected <parameter="),
        ("<tool_call>\n<function=f>\n<parameter=a>\n1", "lacks its </parameter>"),
        (call(a="1").replace("</function>\n", "<parameter=a>2</parameter></function>"), "twice"),
        (call(a="1").removesuffix("</tool_call>") + "and more", "expected </tool_call>"),
    ],
)
def test_faults_are_reported_with_a_reason(reply, reason):
    (bad,) = QWEN3CODER.parse(reply).malformed
    assert reason in bad.reason


@pytest.mark.parametrize(
    "reply",
    [
        "<function=f>\n<parameter=n>\n1\n</parameter>\n</function>",
        "<function=f><parameter=n>1</parameter></function></tool_call>",
        "<tool_call><function=f><parameter=n>1</parameter></function><|im_end|>",
    ],
)
def test_missing_tags_and_spaces_do_no_harm(reply):
    parsed = QWEN3CODER.parse(f"Well.\n{reply}")
    assert (parsed.text, parsed.malformed) == ("Well.", ())
    assert [c.arguments for c in parsed.tool_calls] == [{"n": 1}]


def test_names_that_cannot_be_written_are_named():
    for name, key in (("a b", "k"), ("f", "<k>")):
        tool = {"name": name, "parameters": {"type": "object", "properties": {key: {}}}}
        with pytest.raises(ParameterError, match="cannot be a name"):
            QWEN3CODER.grammar(functions_of([tool]), repr)
        with pytest.raises(ParameterError, match="cannot name"):
            QWEN3CODER.render_call(ToolCall(name=name, arguments={key: 1}))
    choices = {"type": "object", "properties": {"k": {"enum": ["a</parameter>"]}}}
    with pytest.raises(ParameterError, match=r"f\.k: the text"):
        QWEN3CODER.grammar(functions_of([{"name": "f", "parameters": choices}]), repr)


def test_declarations_and_responses():
    assert QWEN3CODER.render_declaration(TOOL).startswith(
        "<function>\n<name>f</name>\n<description>Does it.</description>\n<parameters>{"
    )
    assert QWEN3CODER.render_response("f", {"a": 1}) == (
        '<tool_response>\n{"a": 1}\n</tool_response>'
    )


def test_tags_that_are_missing_at_the_end_are_added_where_that_is_asked_for():
    for cut in ("</function>\n", "</function>\n</tool_call>"):
        reply = "Well. " + call(n="1").replace(cut, "")
        assert QWEN3CODER.parse(reply).malformed
        mended = QWEN3CODER.parse(reply, repair=True)
        assert [c.arguments for c in mended.tool_calls] == [{"n": 1}]
        assert mended.repairs
    cut_off = call(n="1").split("\n</parameter>")[0]  # the value may have been to go on
    assert QWEN3CODER.parse(cut_off, repair=True).malformed


def told(form, text, size):
    """The argument texts of a growing call, joined, and what was taken back."""
    reader = ReplyReader(form.syntax)
    events = [event for i in range(0, len(text), size) for event in reader.feed(text[i : i + size])]
    early = [event.text for event in events if isinstance(event, CallArguments)]
    events += reader.end(form.parse(text))
    said = "".join(event.text for event in events if isinstance(event, CallArguments))
    return said, early, [event for event in events if isinstance(event, CallWithdrawn)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("form", [TYPED, QWEN3CODER], ids=["typed", "plain"])
def test_arguments_are_told_as_json_while_they_are_written(form, size):
    text = call(code='a "b"\n\n</param>\né', note="null", n="3", any='{"k": [1]}', kind="")
    said, _, taken_back = told(form, text, size)
    (read,) = form.parse(text).tool_calls
    assert json.loads(said) == read.arguments
    assert not taken_back
    assert told(form, call(), size)[0] == "{}"


def test_a_text_is_told_as_it_comes():
    _, early, _ = told(TYPED, call(code="x" * 100)[:-60], 1)
    assert len(early) > 30
    assert "".join(early).startswith('{"code": "xxx')
