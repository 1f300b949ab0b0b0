"""Repeats, contradictions, leaks, length; splits, counts, and writing."""

import json
from dataclasses import replace

import pytest
from data_cases import ROWS, TOOLS, call, examples_of, request_of, row, write_rows

from lorakit.errors import FormatError, ParameterError, WriteError
from lorakit.training.data import (
    leaks,
    overlong,
    read_examples,
    repeats,
    split_examples,
    stats_of,
    write_examples,
)
from lorakit.training.data.split import MANY, held_apart, kind_of


def found(faults):
    return [(fault.place, fault.code) for fault in faults]


def test_repeats_and_contradictions(tmp_path):
    rows = [*ROWS[:2], ROWS[0], row(request_text(ROWS[1]), call("light", room="kitchen", level=31))]
    assert found(repeats(examples_of(tmp_path, rows))) == [
        ("rows.jsonl:3", "duplicate"),
        ("rows.jsonl:4", "contradiction"),
    ]
    texts = [{"text": "a"}, {"text": "b"}, {"text": "a"}, {"prompt": "a", "completion": "b"}]
    assert found(repeats(examples_of(tmp_path, texts, None))) == [("rows.jsonl:3", "duplicate")]


def request_text(record):
    return record["messages"][0]["content"]


def test_leaks_are_seen_through_politeness_and_case(tmp_path):
    train = examples_of(tmp_path, ROWS[:3])
    rows = [
        row(
            "Please dim the kitchen lights to 30 percent!", call("light", room="kitchen", level=30)
        ),
        row("dim the pantry lights to 31 percent", call("light", room="pantry", level=31)),
        ROWS[5],
    ]
    test = examples_of(tmp_path, rows)
    assert found(leaks(test, train)) == [("rows.jsonl:1", "leak")]
    assert found(leaks(test, train, phrasings=True)) == [
        ("rows.jsonl:1", "leak"),
        ("rows.jsonl:2", "leak"),
    ]
    assert found(leaks(test, [])) == []


def test_what_is_too_long_or_cannot_be_rendered(tmp_path):
    def measure(example):
        if "hall" in request_of(example):
            raise FormatError("the template refuses it")
        return len(request_of(example))

    examples = examples_of(tmp_path, ROWS[:3])
    assert found(overlong(examples, measure, 37)) == [
        ("rows.jsonl:1", "too_long"),
        ("rows.jsonl:3", "unrenderable"),
    ]


# Splitting.


def many(path, wordings=10, values=6):
    rows = [
        row(f"wording {'abcdefghij'[w]} of {n}", call(name, level=n))
        for name in ("light",)
        for w in range(wordings)
        for n in range(1, values + 1)
    ]
    rows += [row(f"send it {'abcdefghij'[w]} to Anna", call("send", to="Anna")) for w in range(4)]
    return examples_of(path, rows)


@pytest.mark.parametrize("seed", range(5))
def test_a_phrasing_is_on_one_side(tmp_path, seed):
    examples = many(tmp_path)
    train, test = split_examples(examples, 0.2, seed=seed)
    assert not {e.phrasing for e in train} & {e.phrasing for e in test}
    assert sorted(map(id, (*train, *test))) == sorted(map(id, examples))
    assert [e.place for e in test] == [e.place for e in examples if e in test]
    assert len([e for e in test if kind_of(e) == "light"]) == 12
    assert len([e for e in test if kind_of(e) == "send"]) == 1
    assert split_examples(examples, 0.2, seed=seed) == (train, test)


def test_by_line_phrasings_are_on_both_sides(tmp_path):
    train, test = split_examples(many(tmp_path), 0.2, by="line")
    assert {e.phrasing for e in train} & {e.phrasing for e in test}
    assert len(test) == 13


def test_one_phrasing_is_not_torn_apart(tmp_path):
    train, test = split_examples(many(tmp_path, wordings=1), 0.5)
    assert [kind_of(e) for e in test] == ["send"] * 2
    assert len(train) == 8


def asked(example):
    return example.messages[0]["content"].casefold()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_held_out_shares_no_wording_with_the_rest(tmp_path, seed):
    examples = many(tmp_path)
    rest, held = held_apart(examples, 13, seed)
    assert not {e.phrasing for e in rest} & {e.phrasing for e in held}
    assert 7 <= len(held) <= 13
    assert len({e.phrasing for e in rest if kind_of(e) == "light"}) >= MANY
    by_line, drawn = split_examples(examples, 0.2, by="line", seed=seed)  # the broken variant
    assert {e.phrasing for e in by_line} & {e.phrasing for e in drawn}


def test_without_wordings_what_is_held_out_costs_none(tmp_path):
    examples = many(tmp_path)
    rest, held = held_apart(examples, 13, wordings=False)
    assert len(held) == 13
    assert not set(map(asked, rest)) & set(map(asked, held))
    assert len({e.phrasing for e in rest}) > len({e.phrasing for e in held_apart(examples, 13)[0]})


def test_of_few_wordings_values_are_held_out_and_no_duplicate(tmp_path):
    rows = [row(f"dim the hall lights to {n} percent", call("light", room="hall", level=n))
            for n in (1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 7)]  # fmt: skip
    examples = examples_of(tmp_path, rows)
    assert len({e.phrasing for e in examples}) == 1
    for seed in range(5):
        rest, held = held_apart(examples, 4, seed)
        assert held
        assert not set(map(asked, rest)) & set(map(asked, held))
    assert held_apart(examples[:3], 1) == (examples[:3], ())  # all of them ask the same


def test_texts_that_are_there_twice_are_held_out_together(tmp_path):
    examples = examples_of(tmp_path, [{"text": f"Line {i // 2}"} for i in range(40)], None)
    rest, held = held_apart(examples, 10)
    assert len(held) == 10
    assert not {e.text for e in rest} & {e.text for e in held}


def test_texts_split_by_line(tmp_path):
    examples = examples_of(tmp_path, [{"text": str(i)} for i in range(20)], None)
    train, test = split_examples(examples, 0.25)
    assert (len(train), len(test)) == (15, 5)


@pytest.mark.parametrize("share", [0, 1, -1, float("nan"), "x", True])
def test_shares_that_are_none(share):
    with pytest.raises(ParameterError, match="share"):
        split_examples([], share)
    with pytest.raises(ParameterError, match="by must be"):
        split_examples([], 0.1, by="tool")


# Counting.


def test_counts(tmp_path):
    rows = [*ROWS, row("dim the bath lights to 31 percent", call("light", room="bath", level=31))]
    stats = stats_of(examples_of(tmp_path, rows), lambda example: len(example.place))
    assert {kind.name: (kind.examples, kind.phrasings) for kind in stats.kinds} == {
        "light": (4, 3),
        "no call": (1, 1),
        "send": (2, 2),
        "train": (2, 2),
    }
    assert stats.tasks == {"calls": 9}
    assert stats.values["light.room"] == 4
    assert stats.values["light.level"] == 3
    assert stats.words == (4, 6, 8)
    assert stats.tokens == (12, 12, 12)
    assert json.loads(json.dumps(stats.to_dict()))["examples"] == 9


def test_advice_names_what_is_scarce(tmp_path):
    advice = stats_of(examples_of(tmp_path, ROWS[3:5])).advice
    assert [line for line in advice if "no example calls light" in line]
    assert [line for line in advice if "send is asked for in 2 wordings" in line]
    assert [line for line in advice if "every request calls a tool" in line]
    assert [line for line in advice if "send.to has 2 values" in line]
    assert stats_of(examples_of(tmp_path, [{"text": "x"}], None)).advice == ()


# Writing.


def test_what_is_written_reads_back(tmp_path):
    rows = [*ROWS, {"text": "a\u2028b"}, {"prompt": "x", "completion": "é"}]
    examples = examples_of(tmp_path, rows)
    (tmp_path / "new").mkdir()
    for path in (tmp_path / "new/copy.jsonl", tmp_path / "copy.jsonl"):
        assert write_examples(path, iter(examples)) == len(rows)
        again = read_examples(path).require()
        assert [replace(e, place="") for e in again] == [replace(e, place="") for e in examples]


def test_tools_beside_the_file_are_not_repeated_in_it(tmp_path):
    examples = examples_of(tmp_path)
    write_examples(tmp_path / "copy.jsonl", examples)
    assert '"tools"' not in (tmp_path / "copy.jsonl").read_text()
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS[:1]))
    write_examples(tmp_path / "copy.jsonl", examples)
    assert (tmp_path / "copy.jsonl").read_text().count('"tools"') == len(examples)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(WriteError):
        write_examples(tmp_path / "none/a.jsonl", examples_of(tmp_path))
    path = write_rows(tmp_path / "b.jsonl", ROWS)
    before = path.read_bytes()

    def broken():
        yield examples_of(tmp_path)[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_examples(path, broken())
    assert path.read_bytes() == before
