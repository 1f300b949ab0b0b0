"""The everyday requests that ship, and which of them an app's examples leave."""

import json
from collections import Counter

from data_cases import ROWS, call, examples_of, row

from lorakit import demo
from lorakit.chat.calls import function_of
from lorakit.training.data import everyday_requests, leaks, read_examples, requests_apart_from
from lorakit.training.data.everyday import everyday_words

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
