"""What steps learn from: a function of seed and step, in the shares that were asked for."""

from collections import Counter
from dataclasses import replace

import pytest

from lorakit import demo
from lorakit.base.folder import Base
from lorakit.training.batches import Batches, passes
from lorakit.training.data import Augmenter, Example
from lorakit.training.render import Rendered, Renderer
from lorakit.training.settings import filled, make_settings

TOOL = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Start a timer.",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}},
    },
}
BASE = Base.open(demo.base_path())
RENDERER = Renderer.of(BASE)


def example(minutes):
    call = {"function": {"name": "set_timer", "arguments": {"minutes": minutes}}}
    return Example(
        task="calls",
        place=f"made:{minutes}",
        messages=(
            {"role": "user", "content": f"a timer of {minutes} minutes"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", **call}]},
        ),
        tools=(TOOL,),
    )


EXAMPLES = [example(n) for n in range(10, 31)]
KEPT = [Rendered(ids=(1, 2, n), answers=(False, False, True)) for n in range(100, 117)]
BESIDE = [Rendered(ids=(1, 3, n), answers=(False, False, True)) for n in range(100, 105)]


def batches(replayed=None, augmenter=None, **settings):
    chosen = make_settings({"batch": 6, "steps": 20, **settings}, BASE)
    chosen = filled(chosen, BASE, examples=len(EXAMPLES), replay=bool(replayed))
    return Batches(chosen, RENDERER, EXAMPLES, replayed or {"": []}, augmenter)


def test_a_step_is_always_the_same_whatever_came_before():
    one, two = batches({"": KEPT}, declare=0.5), batches({"": KEPT}, declare=0.5)
    forth = [one.rows(step) for step in range(12)]
    back = [two.rows(step) for step in reversed(range(12))][::-1]
    assert forth == back
    assert batches({"": KEPT}, declare=0.5, seed=1).rows(3) != forth[3]


def test_every_example_comes_once_before_one_comes_again():
    drawn = batches(augment=False)
    rows = [row for step in range(7) for row in drawn.rows(step)]  # 42 of 21
    assert len(rows) == 42
    for part in (rows[:21], rows[21:]):
        assert sorted(row.ids for row in part) == sorted(
            RENDERER.render(e)[0].ids for e in EXAMPLES
        )
    assert rows[:21] != rows[21:]


def test_a_third_is_replayed_by_default_and_every_request_in_turn():
    drawn = batches({"": KEPT})
    replayed = [[row for row in drawn.rows(step) if row in KEPT] for step in range(17)]
    assert {len(rows) for rows in replayed} == {2}
    assert Counter(row.ids for rows in replayed for row in rows) == {row.ids: 2 for row in KEPT}
    half = batches({"": KEPT}, replay_share=0.5)
    assert sum(row in KEPT for row in half.rows(0)) == 3
    assert len(batches().rows(0)) == 6


def test_companions_come_by_turns_each_with_its_own_answers():
    drawn = batches({"": KEPT, "style": BESIDE})
    assert [drawn.companion(step) for step in range(4)] == ["", "style", "", "style"]
    assert sum(row in BESIDE for row in drawn.rows(1)) == 2
    assert not any(row in BESIDE for row in drawn.rows(2))
    of_style = [r for step in (1, 3, 5, 7, 9) for r in drawn.rows(step) if r in BESIDE]
    assert Counter(row.ids for row in of_style) == {row.ids: 2 for row in BESIDE}


@pytest.mark.parametrize(("declare", "low", "high"), [(0, 0, 0), (0.25, 0.15, 0.35), (1, 1, 1)])
def test_the_share_of_prompts_with_declarations(declare, low, high):
    drawn = batches(declare=declare, augment=False)
    declared = {RENDERER.render(e, True)[0].ids for e in EXAMPLES}
    rows = [row for step in range(40) for row in drawn.rows(step)]
    assert low <= sum(row.ids in declared for row in rows) / len(rows) <= high


def test_draws_are_augmented_unless_it_is_switched_off():
    plain = {RENDERER.render(e)[0].ids for e in EXAMPLES}
    drawn = batches(augmenter=Augmenter(EXAMPLES, 0))
    rows = [row.ids for step in range(10) for row in drawn.rows(step)]
    assert sum(row in plain for row in rows) < 0.7 * len(rows)
    assert len(set(rows)) > len(plain)


class Long:
    """Other words that the context has no room for."""

    def draw(self, rng, example):
        asked = {"role": "user", "content": "please " * 2000}
        return replace(example, messages=(asked, *example.messages[1:]))


def test_an_example_that_is_too_long_in_other_words_keeps_its_own():
    plain = {RENDERER.render(e)[0].ids for e in EXAMPLES}
    assert {row.ids for row in batches(augmenter=Long()).rows(0)} <= plain


def test_passes_hold_all_rows_and_keep_within_their_tokens():
    rows = [replace(KEPT[0], ids=(1,) * n, answers=(False,) * n) for n in (5, 40, 9, 30, 7, 8)]
    for accumulate, most, expected in ((1, 1000, 1), (2, 1000, 2), (4, 1000, 3), (1, 45, 3)):
        found = passes(rows, accumulate, most)
        assert len(found) == expected
        assert sorted(row.ids for part in found for row in part) == sorted(r.ids for r in rows)
        assert all(len(part) == 1 or sum(len(r.ids) for r in part) <= most for part in found)
