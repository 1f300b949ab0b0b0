"""New examples from given ones: what they may change, and what they must not."""

import json
import random
from dataclasses import replace
from functools import cache

import pytest
from data_cases import ROWS, TOOLS, call, calls_made, calls_of, examples_of, request_of, row, tool

from lorakit import demo
from lorakit.chat.calls import ToolCall
from lorakit.chat.tools import validate_call
from lorakit.training.data import Augmenter, Rates, augment, expand_examples, read_examples
from lorakit.training.data.frames import DROPPED, FUNCTION_WORDS, INSERTED, PREFIXES, SUFFIXES
from lorakit.training.data.phrasing import located, phrasing_of
from lorakit.training.data.swap import Values, schema_at

NOTHING = Rates(swap=0, frame=0, noise=0, drop=0, move=0)
FRAME_WORDS = {word.strip(",") for text in (*PREFIXES, *SUFFIXES) for word in text.split()}


def draws(examples, count=400, *, rates=None, seed=0, held_out=()):
    """Pairs of an example and what was drawn from it."""
    augmenter = Augmenter(examples, seed, rates=rates, held_out=held_out)
    rng = random.Random(seed)
    chosen = [rng.choice(examples) for _ in range(count)]
    return [(example, augmenter.draw(rng, example)) for example in chosen]


def faults(example):
    calls = [ToolCall(name=c["name"], arguments=c["arguments"]) for c in calls_of(example)]
    return [fault for made in calls for fault in validate_call(made, example.tools)]


@cache
def car():
    return read_examples(demo.folder() / "training/train.jsonl").require()[:200]


@pytest.fixture(params=["rows", "car"])
def examples(request, tmp_path):
    return examples_of(tmp_path) if request.param == "rows" else car()


def test_draws_are_valid_and_have_the_phrasing_that_they_say(examples):
    made = [drawn for _, drawn in draws(examples)]
    assert not [fault for drawn in made for fault in faults(drawn)]
    assert not [drawn for drawn in made if phrasing_of(drawn.messages) != drawn.phrasing]


def test_values_that_would_clash_are_seen(examples, monkeypatch):
    """The broken variant: new values are taken whatever they are."""
    monkeypatch.setattr(augment, "_holds", lambda *rest: True)
    monkeypatch.setattr(Values, "draw", lambda self, rng, argument, value, schema: "the")
    made = [drawn for _, drawn in draws(examples)]
    assert [d for d in made if faults(d) or phrasing_of(d.messages) != d.phrasing]


def test_the_same_random_numbers_give_the_same_draws(examples):
    assert draws(examples, seed=3) == draws(examples, seed=3)
    assert draws(examples, seed=3) != draws(examples, seed=4)


def test_without_rates_nothing_changes(examples):
    assert all(drawn == example for example, drawn in draws(examples, rates=NOTHING))


def test_the_examples_are_left_as_they_were(examples):
    before = json.dumps([[*e.messages] for e in examples])
    draws(examples)
    assert json.dumps([[*e.messages] for e in examples]) == before


def test_a_swap_changes_values_alone(examples):
    pairs = draws(examples, rates=replace(NOTHING, swap=1))
    assert all(drawn.phrasing == example.phrasing for example, drawn in pairs)
    assert [d["name"] for _, drawn in pairs for d in calls_of(drawn)] == [
        c["name"] for example, _ in pairs for c in calls_of(example)
    ]
    changed = sum(calls_of(example) != calls_of(drawn) for example, drawn in pairs)
    assert changed > 0.6 * len(pairs)


def test_a_swapped_value_has_as_many_words(examples):
    for example, drawn in draws(examples, rates=replace(NOTHING, swap=1)):
        for old, new in zip(calls_of(example), calls_of(drawn), strict=True):
            assert old["arguments"].keys() == new["arguments"].keys()
            for key, value in old["arguments"].items():
                assert type(new["arguments"][key]) is type(value)
                assert len(str(new["arguments"][key]).split()) == len(str(value).split())


def test_the_request_says_the_new_value_in_its_own_case(tmp_path):
    rows = [row("Kitchen light on", call("light", room="kitchen", state="on"))]
    for _, drawn in draws(examples_of(tmp_path, rows), rates=replace(NOTHING, swap=1)):
        room = calls_of(drawn)[0]["arguments"]["room"]
        assert room.islower()
        assert request_of(drawn).startswith(room.capitalize())


@pytest.mark.parametrize(
    ("value", "shape"),
    [("7:30", r"\d:\d\d"), ("19:05", r"\d\d:\d\d"), ("2026-11-29", r"2026-\d\d-\d\d"),
     ("KL 204", r"[A-Z]{2} \d0\d"), ("New York", r"[A-Z][a-z]+ [A-Z][a-z]+"),
     ("the old lamp", r"the [a-z]+ [a-z]+"), ("B12", r"[A-Z]\d\d"), ("NASA", r"[A-Z]+")],
)  # fmt: skip
def test_new_strings_have_the_shape_of_the_old(tmp_path, value, shape):
    import re

    examples = examples_of(tmp_path, [row(f"about {value} then", call("train", start=value))])
    made = {
        calls_of(drawn)[0]["arguments"]["start"]
        for _, drawn in draws(examples, 60, rates=replace(NOTHING, swap=1))
    }
    assert len(made) > 20
    assert not [text for text in made if not re.fullmatch(shape, text)]


def test_words_that_many_values_share_stay(tmp_path):
    rooms = ("living room", "guest room", "music room", "old hall")
    rows = [row(f"light the {room}", call("light", room=room)) for room in rooms]
    pairs = draws(examples_of(tmp_path, rows), rates=replace(NOTHING, swap=1))
    found = [(c["arguments"]["room"], d["arguments"]["room"]) for e, m in pairs
             for c, d in zip(calls_of(e), calls_of(m), strict=True)]  # fmt: skip
    ends = {new.split()[1] for old, new in found if old.endswith("room")}
    assert "room" in ends
    assert len(ends - {"room", "hall"}) == 0
    assert len({new.split()[1] for old, new in found if old == "old hall"}) > 10


def test_numbers_stay_within_the_schema_or_near_what_was_seen(tmp_path):
    tools = [tool("a", n={"type": "integer"}, x={"type": "number", "minimum": 0, "maximum": 1})]
    rows = [row("a 40 0.25", call("a", n=40, x=0.25)), row("b 60 0.75", call("a", n=60, x=0.75))]
    pairs = draws(examples_of(tmp_path, rows, tools), rates=replace(NOTHING, swap=1))
    found = [calls_of(drawn)[0]["arguments"] for _, drawn in pairs]
    assert {type(each["n"]) for each in found} == {int}
    assert 20 <= min(each["n"] for each in found) < 30
    assert 100 < max(each["n"] for each in found) <= 120
    assert all(0 <= each["x"] <= 1 and round(each["x"], 2) == each["x"] for each in found)


def test_a_pattern_or_format_lets_only_known_values_in(tmp_path):
    tools = [tool("a", mail={"type": "string", "format": "email"})]
    rows = [row(f"mail {name}@x.org", call("a", mail=f"{name}@x.org")) for name in "abc"]
    pairs = draws(examples_of(tmp_path, rows, tools), rates=replace(NOTHING, swap=1))
    assert {calls_of(drawn)[0]["arguments"]["mail"] for _, drawn in pairs} == {
        f"{name}@x.org" for name in "abc"
    }


STUCK = [
    # What is said elsewhere too would contradict a new value.
    [*row("call Anna", call("send", to="Anna"))["messages"], {"role": "tool", "content": "ok"},
     {"role": "assistant", "content": "I told Anna."}],
    [{"role": "user", "content": "who is Anna"}, {"role": "assistant", "content": "a friend"},
     *row("call Anna", call("send", to="Anna"))["messages"]],
    row("call Anna", call("send", to="Anna", text="it is Anna who calls"))["messages"],
]  # fmt: skip


@pytest.mark.parametrize("messages", STUCK)
def test_a_value_that_is_said_elsewhere_stays(tmp_path, messages):
    examples = examples_of(tmp_path, [{"messages": messages}])
    pairs = draws(examples, 50, rates=replace(NOTHING, swap=1))
    assert all(calls_of(drawn) == calls_of(example) for example, drawn in pairs)


def test_of_a_conversation_the_last_request_alone_changes(tmp_path):
    earlier = row("light the hall", call("light", room="hall"))["messages"]
    messages = [*earlier, {"role": "tool", "content": "ok"}, *ROWS[5]["messages"]]
    pairs = draws(examples_of(tmp_path, [{"messages": messages}]))
    assert all(drawn.messages[:3] == example.messages[:3] for example, drawn in pairs)
    assert any(drawn.messages[3:] != example.messages[3:] for example, drawn in pairs)


def outside_values(example):
    """The words of a request that belong to no value."""
    request = request_of(example)
    spans = [span for found in located(request, calls_of(example)) for span in found.spans]
    for start, end in sorted(spans, reverse=True):
        request = request[:start] + " " + request[end:]
    return [word.strip(".,!?:").casefold() for word in request.split() if word.strip(".,!?:")]


def test_no_word_with_a_meaning_comes_or_goes(examples):
    """Beside a value it would be taken for a part of one."""
    may_come = set(INSERTED) | FRAME_WORDS
    for example, drawn in draws(examples):
        before, after = outside_values(example), outside_values(drawn)
        assert set(after) - set(before) <= may_come
        assert set(before) - set(after) <= DROPPED | FRAME_WORDS
    assert set(INSERTED) <= FUNCTION_WORDS


def test_a_sentence_is_never_followed_or_preceded_by_other_words(tmp_path):
    examples = [e for e in examples_of(tmp_path) if "text" in e.phrasing][:2]
    for example, drawn in draws(examples, rates=replace(Rates(), swap=0)):
        text = calls_of(example)[0]["arguments"]["text"]
        if len(text.split()) >= 4:
            assert request_of(drawn).endswith(text)


def test_what_was_framed_may_lose_its_frame_and_questions_get_no_prefix(tmp_path):
    rows = [row("please dim the hall", call("light", room="hall")), ROWS[7]]
    asked = [
        request_of(drawn)
        for example, drawn in draws(examples_of(tmp_path, rows), rates=replace(NOTHING, frame=1))
    ]
    assert {"dim the hall", "Dim the hall"} & set(asked)
    assert all(text.lower().startswith("who painted") for text in asked if "painted" in text)


def test_held_out_phrasings_are_never_drawn(examples):
    plain = draws(examples, 2000)
    common = {drawn.phrasing for example, drawn in plain if drawn.phrasing != example.phrasing}
    held_out = sorted(common - {example.phrasing for example in examples})[::2]
    assert held_out
    kept = draws(examples, 2000, held_out=held_out)
    assert not {drawn.phrasing for _, drawn in kept} & set(held_out)


def test_no_draw_takes_the_words_of_what_is_answered_otherwise(tmp_path):
    """Without its first word one would be the other, which is another call."""
    rows = [
        row("the light hall", call("light", room="hall")),
        row("light hall", call("train", start="hall")),
    ]
    rates = Rates(drop=0.9)
    for _, drawn in draws(examples_of(tmp_path, rows), 600, rates=rates):
        name = calls_of(drawn)[0]["name"]
        assert drawn.phrasing != ("light {room}" if name == "light" else "the light {start}")
    alone = draws(examples_of(tmp_path, rows[:1]), 600, rates=rates)
    assert "light {room}" in {drawn.phrasing for _, drawn in alone}


def test_other_tasks_and_odd_texts_are_left_alone(tmp_path):
    rows = [row("hi", reply="Hello"), {"text": "once"}, {"prompt": "a", "completion": "b"}]
    chat = read_rows(tmp_path, rows, tools=None)
    odd = read_rows(tmp_path, [row("dim \ue000 the hall", call("light", room="hall"))])
    for example, drawn in draws((*chat, *odd), 60):
        assert drawn is example


def read_rows(path, rows, tools=TOOLS):
    (path / "tools.json").unlink(missing_ok=True)
    return examples_of(path, rows, tools)


def test_a_request_with_odd_spaces_keeps_its_words(tmp_path):
    rows = [row("dim  the hall\nnow", call("light", room="hall"))]
    for _, drawn in draws(examples_of(tmp_path, rows), 50):
        room = calls_of(drawn)[0]["arguments"]["room"]
        assert request_of(drawn) == f"dim  the {room}\nnow"


def test_time_is_linear_in_the_examples(tmp_path):
    rows = [row(f"call number {i} now", call("send", to=f"number {i}")) for i in range(400)]
    examples = examples_of(tmp_path, rows)
    once = calls_made(lambda: draws(examples[:200], 200))
    assert calls_made(lambda: draws(examples, 400)) < 2.2 * once


# Expanding.


def test_expanding_keeps_the_examples_and_repeats_none(examples):
    made = list(expand_examples(examples, 500))
    assert made[: len(examples)] == list(examples)
    assert len({json.dumps(example.messages) for example in made}) == len(made) == 500
    assert made == list(expand_examples(examples, 500))


def test_expanding_ends_where_there_is_no_more(tmp_path):
    examples = examples_of(tmp_path, [row("hi", reply="Hello")], tools=None)
    assert list(expand_examples(examples, 10)) == list(examples)
    assert list(expand_examples(examples, 0)) == []


def test_schemas_are_found_within_lists_and_objects():
    inner = {"type": "string"}
    wanted = tool("a", b={"type": "array", "items": {"type": "object", "properties": {"c": inner}}})
    assert schema_at([wanted], ("a", "b", "c")) == inner
    assert schema_at([wanted], ("a", "x")) == {}
    assert schema_at([wanted], ("x",)) == {}
