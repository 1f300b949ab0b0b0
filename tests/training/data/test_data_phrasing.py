"""Where values stand in a request, and the phrasing without them."""

import pytest
from data_cases import call, row

from lorakit.training.data.frames import without_frame
from lorakit.training.data.phrasing import MAX_REQUEST, located, phrasing_of

PHRASINGS = [
    ("dim the kitchen to 30", call("light", room="kitchen", level=30), "dim the {room} to {level}"),
    (
        "Dim The KITCHEN to 30!",
        call("light", room="kitchen", level=30),
        "dim the {room} to {level}",
    ),
    ("hey, can you dim the kitchen please?", call("light", room="kitchen"), "dim the {room}"),
    ("please", call("light"), "please"),
    ("run 5km", call("run", km=5), "run {km}km"),
    ("run 5.5 or 15", call("run", km=5), "run 5.5 or 15"),
    ("run 5.0 km", call("run", km=5.0), "run 5.0 km"),
    ("run 5 km", call("run", km=5.0), "run {km} km"),
    ("the kitchenette", call("light", room="kitchen"), "the kitchenette"),
    ("guest room, room", call("light", room="guest room", other="room"), "{room}, {other}"),
    ("from A to A", call("train", start="A", end="A"), "from {start} to {end}"),
    ("a day in A", call("train", start="A", end="A"), "{start} day in {end}"),
    ("only A", call("train", start="A", end="A"), "only {start}"),
    ("A, A and A", call("train", start="A"), "{start}, {start} and {start}"),
    ("on  the\nlist", call("light", state="the list"), "on {state}"),
    ("yes (C++)", call("code", language="C++"), "yes ({language})"),
    ("deep x", call("a", b={"c": [{"d": "x"}]}), "deep {d}"),
    ("is it on", call("light", state=True), "is it on"),
    ("zur Hauptstraße bitte", call("route", to="Hauptstraße"), "zur {to} bitte"),
    ("SCHOPPENGÄSSLI an", call("light", room="Schoppengässli"), "{room} an"),
]


@pytest.mark.parametrize(("request_text", "made", "expected"), PHRASINGS)
def test_phrasings(request_text, made, expected):
    assert phrasing_of(row(request_text, made)["messages"]) == expected


def test_only_the_last_request_counts():
    earlier = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello Anna"}]
    messages = [*earlier, *row("call Anna", call("send", to="Anna"))["messages"]]
    assert phrasing_of(messages) == "call {to}"
    result = [{"role": "tool", "content": "ok"}, {"role": "assistant", "content": "I called Anna."}]
    assert phrasing_of([*messages, *result]) == "call {to}"


def test_parts_of_a_request_are_one_text():
    parts = [{"type": "text", "text": "call"}, {"type": "text", "text": "Anna"}]
    assert phrasing_of(row(parts, call("send", to="Anna"))["messages"]) == "call {to}"


def test_of_several_calls_each_value_is_found():
    calls = [call("light", room="hall"), call("send", to="Anna")]
    found = located("light the hall and call Anna", calls)
    assert [(each.name, each.paths) for each in found] == [
        ("room", ((0, "room"),)),
        ("to", ((1, "to"),)),
    ]


def test_spans_never_overlap():
    request = "the old red lamp and the red lamp"
    found = located(request, [call("light", a="old red lamp", b="red lamp", c="lamp", d="red")])
    spans = sorted(span for each in found for span in each.spans)
    assert [request[start:end] for start, end in spans] == ["old red lamp", "red lamp"]


def test_what_is_very_long_is_a_phrasing_of_its_own():
    request = "x " * MAX_REQUEST
    assert located(request, [call("light", room="x")]) == ()
    assert phrasing_of(row(request, call("light", room="x"))["messages"]) == request
    many = call("light", **{f"a{i}": str(i) for i in range(200)})
    assert located("1 2 3", [many]) == ()


@pytest.mark.parametrize(
    ("framed", "bare"),
    [
        ("please dim it now", "dim it"),
        ("hey, could you please dim it, thanks!", "dim it"),
        ("would you mind to dim it for me please.", "dim it"),
        ("pleased to meet you", "pleased to meet you"),
        ("what now", "what"),
        ("now", "now"),
        ("...", "..."),
    ],
)
def test_frames_come_off(framed, bare):
    assert without_frame(framed) == bare
