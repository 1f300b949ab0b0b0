"""Messages and tools: every fault is named, good ones become plain copies."""

import enum

import pytest

from lorakit.chat.messages import prepare_messages, prepare_tools, prepare_variables
from lorakit.errors import ParameterError


class Role(enum.StrEnum):
    USER = "user"


def test_a_plain_copy_is_made():
    message = {"role": Role.USER, "content": "x", "extra": {"a": (1, True, None, 2.5)}}
    (plain,) = prepare_messages([message])
    assert plain == {"role": "user", "content": "x", "extra": {"a": [1, True, None, 2.5]}}
    assert type(plain["role"]) is str
    assert plain is not message


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "x"},
        {"role": "developer", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "tool_call_id": "1", "content": {"a": 1}},
        {"role": "tool", "name": "f", "content": [1, 2]},
        {"role": "tool", "name": "f", "content": 5},
    ],
)
def test_messages_that_are_well_formed(message):
    assert len(prepare_messages([message])) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"a": 1}', {"a": 1}), ("", {}), (" ", {}), (None, {}), ({"b": []}, {"b": []})],
)
def test_arguments_become_an_object(arguments, expected):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    (plain,) = prepare_messages([{"role": "assistant", "tool_calls": [call]}])
    assert plain["tool_calls"][0]["function"] == {"name": "f", "arguments": expected}
    assert call["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "messages: empty"),
        (["hi"], "messages[0]: expected an object"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": 1, "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([{"role": "user", "content": {"a": 1}}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "x", "y": object()}], "messages[0].y"),
        ([{"role": "user", "content": "x", 1: 2}], "messages[0]: keys must be strings"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls: expected a list"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "messages[0].tool_calls[0]"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "messages[0].tool_calls[0].arguments: not valid JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 100_000}]}],
            "messages[0].tool_calls[0].arguments: not valid JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}],
            "messages[0].tool_calls[0].arguments: expected an object",
        ),
    ],
)
def test_faults_are_named(messages, fault):
    with pytest.raises(ParameterError) as caught:
        prepare_messages(messages)
    assert any(item.startswith(fault) for item in caught.value.items)


def test_all_faults_are_reported_at_once():
    with pytest.raises(ParameterError) as caught:
        prepare_messages([{"role": ""}, "x", {"role": "user", "content": 1}])
    assert len(caught.value.items) == 4


@pytest.mark.parametrize("messages", ["hi", {"role": "user"}, None, 5])
def test_what_is_no_list_is_refused(messages):
    with pytest.raises(ParameterError, match="must be a list"):
        prepare_messages(messages)


def test_what_is_too_deep_or_cyclic_is_refused():
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(ParameterError, match="too deep"):
        prepare_messages([{"role": "user", "content": "x", "extra": cycle}])
    with pytest.raises(ParameterError, match="too much text"):
        prepare_messages([{"role": "user", "content": "x" * (1 << 24)}] * 2)


def test_tools():
    bare = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    whole = {"type": "function", "function": bare}
    assert prepare_tools([bare]) == prepare_tools([whole]) == [whole]
    assert prepare_tools(None) is prepare_tools([]) is None


@pytest.mark.parametrize(
    "tools",
    [
        ["f"],
        [{}],
        [{"function": {}}],
        [{"name": "f", "parameters": []}],
        [{"name": "f", "description": 1}],
        [{"name": "f", "parameters": {"default": object()}}],
        {"name": "f"},
        "f",
    ],
)
def test_broken_tools_are_refused(tools):
    with pytest.raises(ParameterError, match="tools") as error:
        prepare_tools(tools)
    assert '{"type": "function", "function": {"name": ' in error.value.hint


def test_keys_without_a_value_are_as_if_not_there():
    dump = {"role": "assistant", "content": "x", "tool_calls": None, "refusal": None}
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}], "audio": None}
    plain, calling = prepare_messages([dump, call])
    assert plain == {"role": "assistant", "content": "x"}
    assert calling.keys() == {"role", "tool_calls"}
    assert prepare_messages([{"role": "user", "content": "x", "y": {"a": None}}])[0]["y"] == {
        "a": None
    }


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_under_the_names_that_templates_read(key):
    (plain,) = prepare_messages([{"role": "assistant", "content": "x", key: "hm"}])
    assert plain["reasoning_content"] == plain["thinking"] == "hm"
    both = {"role": "assistant", "content": "x", "thinking": "a", "reasoning": "b"}
    assert prepare_messages([both])[0] == {**both, "reasoning_content": "a"}


def test_variables_are_plain_too():
    assert prepare_variables({"a": (1,)}) == {"a": [1]}
    with pytest.raises(ParameterError, match="variables"):
        prepare_variables({"a": object()})
