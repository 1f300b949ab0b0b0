"""Settings: what is refused, and what is chosen where nothing is said."""

from dataclasses import replace

import pytest

from lorakit import demo
from lorakit.base.folder import Base
from lorakit.errors import ParameterError
from lorakit.training import settings as module
from lorakit.training.schedule import rate_at
from lorakit.training.settings import (
    PRESETS,
    Schedule,
    TrainKeywords,
    filled,
    held_out,
    make_settings,
)

BASE = Base.open(demo.base_path())


def chosen(examples=900, replay=True, **given):
    return filled(make_settings(given, BASE), BASE, examples=examples, replay=replay)


def test_nothing_is_left_open():
    found = chosen()
    assert (found.lora.rank, found.lora.alpha) == (PRESETS[0].rank, 2 * PRESETS[0].rank)
    assert found.schedule == Schedule(
        steps=PRESETS[0].steps, batch=PRESETS[0].batch, rate=PRESETS[0].rate, warmup=20
    )
    assert found.mixture.replay_share == pytest.approx(1 / 3)
    assert chosen(replay=False).mixture.replay_share == 0
    assert chosen(rank=4).lora.alpha == 8
    assert chosen(rank=4, alpha=4).lora.alpha == 4


def test_a_larger_base_gets_a_smaller_rate_and_steps_by_its_data(monkeypatch):
    monkeypatch.setattr(module, "_preset", lambda base: PRESETS[1])
    few, many, very_many = (chosen(examples=n).schedule for n in (20, 900, 100_000))
    assert few.rate == PRESETS[1].rate < PRESETS[0].rate
    assert few.steps == PRESETS[1].fewest < many.steps < very_many.steps == PRESETS[1].steps


def test_epochs_count_the_data_and_not_what_is_replayed():
    assert chosen(epochs=2, batch=30).schedule.steps == 90
    assert chosen(epochs=2, batch=30, replay_share=0.0).schedule.steps == 60
    assert chosen(epochs=2, steps=7).schedule.steps == 7


def test_a_tenth_is_held_out_of_enough_examples():
    settings = make_settings({}, BASE)
    assert [held_out(settings, n) for n in (40, 99, 100, 500, 5000)] == [0, 0, 10, 50, 64]
    asked = make_settings({"holdout": 5}, BASE)
    assert held_out(asked, 40) == 5
    with pytest.raises(ParameterError, match="5 of 5"):
        held_out(asked, 5)


def test_every_fault_is_told_at_once():
    given = {"steps": 0, "rate": float("nan"), "declare": 2, "decay": "fast", "augment": 1}
    with pytest.raises(ParameterError) as caught:
        make_settings(given, BASE)
    assert [item.split(" ")[0] for item in caught.value.items] == list(given)
    with pytest.raises(ParameterError, match="unknown settings: ranks") as caught:
        make_settings({"ranks": 4}, BASE)
    assert "rank, " in caught.value.hint
    for fault in ({"rank": True}, {"targets": "q_proj"}, {"device": "tpu"}, {"alpha": 0}):
        (said,) = _faults(**fault)
        assert said.startswith(f"{next(iter(fault))} must be ")


def _faults(**given):
    with pytest.raises(ParameterError) as caught:
        make_settings(given, BASE)
    return caught.value.items


def test_every_keyword_has_a_rule_and_a_home():
    assert set(TrainKeywords.__annotations__) == set(module._RULES)
    given = {"rank": 2, "alpha": 3.0, "targets": ["q_proj"], "seed": 5, "engine": "torch"}
    found = make_settings(given, BASE)
    assert (found.lora.targets, found.seed, found.compute.engine) == (("q_proj",), 5, "torch")
    for name in set(TrainKeywords.__annotations__) - {"seed"}:
        parts = (found.lora, found.schedule, found.mixture, found.checks, found.compute)
        assert sum(hasattr(part, name) for part in parts) == 1


def test_the_rate_goes_up_and_then_down_to_nothing():
    schedule = Schedule(steps=100, rate=1.0, warmup=10)
    assert [rate_at(s, schedule) for s in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert rate_at(10, schedule) == 1.0
    assert rate_at(55, schedule) == pytest.approx(0.5)
    assert 0 < rate_at(99, schedule) < 0.02
    cosine = replace(schedule, decay="cosine")
    assert rate_at(55, cosine) == pytest.approx(0.5)
    assert rate_at(20, cosine) > rate_at(20, schedule)
    assert rate_at(99, replace(schedule, decay="constant")) == 1.0
    assert rate_at(0, Schedule(steps=1, rate=1.0, warmup=0)) == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 10**5), ("rank", 10**30), ("seed", 10**30), ("steps", 1 << 63), ("tokens", [True])],
)
def test_numbers_that_torch_or_files_cannot_hold_are_refused(name, value):
    with pytest.raises(ParameterError, match="cannot be used") as caught:
        make_settings({name: value}, BASE)
    assert caught.value.items[0].startswith(f"{name} must be")
