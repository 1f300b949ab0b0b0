"""Examples from templates and slots."""

import json

import pytest
from data_cases import TOOLS, call, calls_of, request_of

from lorakit.errors import FormatError
from lorakit.training.data import read_templates
from lorakit.training.data.templates import is_templates

CONTENT = {
    "tools": TOOLS,
    "slots": {
        "room": ["kitchen", "hall", "bath", "guest room", "cellar", "attic", "den", "loft", "gym"],
        "level": {"from": 1, "to": 100},
        "state": ["on", "off"],
    },
    "templates": [
        {
            "request": "dim the {room} to {level}",
            "call": call("light", room="{room}", level="{level}"),
        },
        {"request": "lights {state}", "call": call("light", state="{state}")},
        {
            "request": "tell Anna the {room} is at {level}",
            "call": call("send", to="Anna", text="{room} at {level} percent"),
        },
        {
            "request": "from {room} to {room#2}",
            "call": call("train", start="{room}", end="{room#2}"),
        },
        {
            "request": "both {room} and {room#2}",
            "calls": [call("light", room="{room}"), call("light", room="{room#2}")],
        },
        {"request": "sing me a song", "reply": "I cannot sing."},
        {"request": "{room} at {level}", "held_out": True, "call": call("light", level="{level}")},
    ],
}


def written(path, **changes):
    file = path / "templates.json"
    file.write_text(json.dumps({**CONTENT, **changes}))
    return file


def test_slots_fill_request_and_call_with_their_types(tmp_path):
    by_wording = {}
    for example in read_templates(written(tmp_path)).train(300):
        by_wording.setdefault(example.place, []).append(example)
    dim = by_wording["templates.json[1]"][0]
    arguments = calls_of(dim)[0]["arguments"]
    assert request_of(dim) == f"dim the {arguments['room']} to {arguments['level']}"
    assert type(arguments["level"]) is int
    assert dim.phrasing == "dim the {room} to {level}"
    tell = calls_of(by_wording["templates.json[3]"][0])[0]["arguments"]
    assert tell["text"].endswith(" percent")
    for example in by_wording["templates.json[4]"]:
        ends = calls_of(example)[0]["arguments"]
        assert ends["start"] != ends["end"]
    assert len(calls_of(by_wording["templates.json[5]"][0])) == 2
    assert by_wording["templates.json[6]"][0].messages[1]["content"] == "I cannot sing."
    assert "templates.json[7]" not in by_wording


def test_examples_differ_and_the_seed_decides(tmp_path):
    templates = read_templates(written(tmp_path))
    first = templates.train(200, seed=1)
    assert len({request_of(example) for example in first}) == 200
    assert templates.train(200, seed=1) == first != templates.train(200, seed=2)


def test_a_test_holds_unseen_wordings_and_values(tmp_path):
    templates = read_templates(written(tmp_path))
    train, test = templates.train(600), templates.test(60)
    unseen = [example for example in test if example.place == "templates.json[7]"]
    assert len(test) == 60
    assert len(unseen) == 30
    assert not {example.phrasing for example in unseen} & {example.phrasing for example in train}
    levels = {c["arguments"].get("level") for e in train for c in calls_of(e)} - {None}
    valued = [e for e in test if e.place == "templates.json[1]"]
    assert valued
    assert not levels & {calls_of(e)[0]["arguments"]["level"] for e in valued}
    assert "templates.json[2]" not in {e.place for e in test}  # two values are too few to keep one


def test_where_there_are_no_more(tmp_path):
    few = written(tmp_path, templates=CONTENT["templates"][1:2])
    assert len(read_templates(few).train(50)) == 2
    assert read_templates(few).test(50) == ()


def test_tools_beside_the_file(tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    assert len(read_templates(written(tmp_path, tools=[])).train(5)) == 5


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"slot": {}}, "slot: unknown"),
        ({"slots": []}, "slots"),
        ({"slots": {"room": []}}, "slots.room: expected a list of values"),
        ({"slots": {"room": {"from": 3, "to": 1}}}, "slots.room"),
        ({"slots": {"room": {"from": 1, "to": 10**9}}}, "slots.room"),
        ({"slots": {"room": [True]}}, "slots.room"),
        ({"templates": [3]}, "expected an object with a request"),
        ({"templates": [{"request": "in {rom}"}]}, "there is no slot rom"),
        ({"templates": [{"request": "x", "calls": 3}]}, "expected a list of calls"),
        ({"templates": [{"request": "x", "cal": 3, "reply": "y"}]}, "[1].cal: unknown"),
        ({"templates": [{"request": "x"}]}, "no call is expected"),
        (
            {"templates": [{"request": "x", "call": call("light", room="{room}")}]},
            "the request does not say {room}",
        ),
        (
            {"templates": [{"request": "x", "call": call("light", level="high")}]},
            "expected integer",
        ),
        ({"tools": [3]}, "tools: "),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, changes, fault):
    with pytest.raises(FormatError) as caught:
        read_templates(written(tmp_path, **changes))
    assert any(fault in item for item in caught.value.items), caught.value.items


def test_files_that_are_no_templates(tmp_path):
    assert is_templates(written(tmp_path))
    for name, content in (("a.json", "["), ("b.json", "[]"), ("c.json", "{}"), ("d.jsonl", "{}")):
        (tmp_path / name).write_text(content)
        assert not is_templates(tmp_path / name)
        with pytest.raises(FormatError):
            read_templates(tmp_path / name)
