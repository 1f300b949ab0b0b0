"""The everyday requests that ship, and which of them an app's examples leave."""

import json
from collections import Counter

from data_cases import ROWS, call, examples_of, row

from lorakit import demo
from lorakit.chat.calls import ParsedReply, ToolCall, function_of
from lorakit.training.data import (
    everyday_requests,
    everyday_tools,
    leaks,
    read_examples,
    requests_apart_from,
)
from lorakit.training.data.everyday import everyday_words
from lorakit.training.replay import DECLARED, MOST_DECLARED, Answered, Asked, everyday

TRAINING = demo.folder() / "training"


def test_everyday_requests_are_many_and_different():
    requests = everyday_requests()
    assert len(requests) >= 390
    assert len({request.casefold() for request in requests}) == len(requests)
    assert max(len(request.split()) for request in requests) <= 12
    assert not {"the", "my"} & set(everyday_words())


def test_requests_like_the_examples_are_left_out(tmp_path):
    examples = examples_of(
        tmp_path,
        [row("play the song Blue Moon", call("send", text="Blue Moon")), *ROWS],
    )
    asked = ("play the song Red Sun", "put on Red Sun", "play it now please", "sing a song of rain")
    assert requests_apart_from(examples, asked) == ("put on Red Sun", "sing a song of rain")
    kept = requests_apart_from(examples)
    assert set(kept) < set(everyday_requests())
    assert "play the song Silver River" not in kept


def test_examples_without_calls_leave_all(tmp_path):
    examples = examples_of(tmp_path, [row("play a song", reply="no")], None)
    assert requests_apart_from(examples) == everyday_requests()


def test_some_are_asked_with_tools_in_the_prompt_too(tmp_path):
    asked = everyday(examples_of(tmp_path, ROWS))
    plain, declared = ([a for a in asked if bool(a.tools) == there] for there in (False, True))
    assert len(declared) == round(len(plain) * DECLARED)
    assert {a.place for a in declared} < {a.place for a in plain}
    assert {len(a.tools) for a in declared} == set(range(1, MOST_DECLARED + 1))
    assert all(tool in everyday_tools() for a in declared for tool in a.tools)
    assert asked == everyday(examples_of(tmp_path, ROWS))  # a checkpoint has to agree
    chats = examples_of(tmp_path, [{"prompt": "hello", "completion": "ahoy"}], None)
    assert not any(a.tools for a in everyday(chats))


def test_a_call_that_the_declared_tools_refuse_measures_nothing():
    """An evaluation counts it as invalid, whoever makes it; without declarations it compares."""

    def answered(tools):
        call = ToolCall(name="ring", arguments={})
        return Answered(
            asked=Asked(place="a:1", messages=({"role": "user", "content": "x"},), tools=tools),
            prompt=(1,), tokens=(2,), reply=ParsedReply(text="", tool_calls=(call,)), complete=True,
        )  # fmt: skip

    ring = {"type": "function", "function": {"name": "ring", "parameters": {"properties": {}}}}
    assert answered(everyday_tools()).example() is None
    assert answered((ring,)).example().tools == (ring,)
    assert answered(()).example().task == "calls"
    assert answered(everyday_tools()).rendered().learnt == 1


# The demo's own data.


def test_the_demos_data_is_sound_and_its_test_set_unseen():
    train, forty, test = (
        read_examples(TRAINING / f"{name}.jsonl").require() for name in ("train", "forty", "eval")
    )
    assert (len(train), len(forty), len(test)) == (900, 40, 350)
    assert list(leaks(test, [*train, *forty])) == []
    known = {example.phrasing for example in (*train, *forty)}
    unseen = {example.phrasing: called(example) for example in test[200:]}
    assert not known & unseen.keys()
    assert {example.phrasing for example in test[:200]} <= {e.phrasing for e in train}
    names = {
        function_of(tool)["name"] for tool in json.loads((TRAINING / "tools.json").read_text())
    }
    counted = Counter(unseen.values())
    assert counted.keys() == names
    assert min(counted.values()) >= 4


def called(example):
    return example.messages[1]["tool_calls"][0]["function"]["name"]
