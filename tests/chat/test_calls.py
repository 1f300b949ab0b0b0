"""A call of a message is read in one place, whatever of OpenAI's shape it is written in."""

import pytest

from lorakit.chat.calls import ToolCall, call_of
from lorakit.chat.messages import prepare_messages
from lorakit.errors import ParameterError
from lorakit.remote.asking import _as_openai
from lorakit.training.data import Example
from lorakit.training.evaluate.outcome import expected_calls

SET = {"name": "set", "arguments": {"room": "hall"}}
SPELLINGS = [
    {"id": "7", "type": "function", "function": SET},
    {"function": {"name": "set", "arguments": '{"room": "hall"}'}},
    {"id": None, **SET},
    {"id": 7, "name": "set", "arguments": '\n{"room": "hall"}'},
]


@pytest.mark.parametrize("call", SPELLINGS)
def test_every_spelling_is_the_same_call(call):
    read = call_of(call)
    assert (read.name, read.arguments) == ("set", {"room": "hall"})
    assert read.id == ("7" if call.get("id") else "")
    assert call_of(read.to_openai()) == read


@pytest.mark.parametrize("arguments", [None, "", " \n", {}, "{}", "null"])
def test_a_call_may_have_no_arguments(arguments):
    assert call_of({"name": "f", "arguments": arguments}) == ToolCall(name="f")
    assert call_of({"name": "f"}) == ToolCall(name="f")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("set", "here: expected a function with a name"),
        (None, "here: expected a function with a name"),
        ({"function": "set", "name": "set"}, "here: expected a function with a name"),
        ({"name": 1}, "here: expected a function with a name"),
        ({"name": "set", "arguments": "{"}, "here.arguments: not valid JSON"),
        ({"name": "set", "arguments": "[" * 100_000}, "here.arguments: not valid JSON"),
        ({"name": "set", "arguments": '{"a": "\ud800"}'}, "here.arguments: not valid JSON"),
        ({"name": "set", "arguments": '{"a": 1, "a": 2}'}, "the key 'a' is there twice"),
        ({"name": "set", "arguments": "[1]"}, "here.arguments: expected an object, found [1]"),
        ({"name": "set", "arguments": 0}, "here.arguments: expected an object, found 0"),
    ],
)
def test_what_is_no_call_is_refused_with_its_place(call, fault):
    with pytest.raises(ParameterError) as caught:
        call_of(call, "here")
    assert fault in caught.value.message
    assert (caught.value.code, caught.value.hint[:9]) == ("parameter_invalid", "a call is")


@pytest.mark.parametrize("call", SPELLINGS)
def test_a_chat_a_server_and_an_evaluation_read_it_alike(call):
    message = {"role": "assistant", "tool_calls": [call]}
    example = Example(task="calls", place="here", messages=(message,))
    (prepared,) = prepare_messages([message])
    said = _as_openai(message, reasoning=False)["tool_calls"][0]
    assert call_of(prepared["tool_calls"][0]) == expected_calls(example)[0] == call_of(call)
    assert said["function"] == {"name": "set", "arguments": '{"room": "hall"}'}
    assert said["id"] == ("7" if call.get("id") else "call_0")


def test_an_evaluation_says_where_the_call_stands_that_it_cannot_read():
    message = {"role": "assistant", "tool_calls": [SET, {"name": "set", "arguments": "{"}]}
    with pytest.raises(ParameterError, match=r"data:3: the last turn's tool_calls\[1\]\.arguments"):
        expected_calls(Example(task="calls", place="data:3", messages=(message,)))
