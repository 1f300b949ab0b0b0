"""Which adapters act on which tokens, and what of a KV cache two requests may share."""

import pytest

from lorakit.engines.fake import FakeEngine
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.stages import Plan, agreement, last_occurrence, plan
from runtime_cases import Numbers, adapter


def run(scheduler, prompt, adapters):
    generation = Generation(tuple(prompt), SamplingParams(max_tokens=6), adapters=adapters)
    scheduler.add(Job(generation, Numbers(), frozenset()))
    while scheduler.step():
        pass
    return generation.result()


@pytest.mark.parametrize(
    ("tokens", "wanted", "expected"),
    [
        ([1, 2, 3, 1, 2], [1, 2], 3),
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2], [2, 1], None),
        ([1], [1, 2], None),
        ([], [1], None),
    ],
)
def test_the_last_occurrence_counts(tokens, wanted, expected):
    assert last_occurrence(tokens, wanted) == expected


def test_a_plan_has_a_stage_for_each_invocation():
    found = plan(
        ((1, 1.0), (2, 0.5), (3, 2.0)),
        [9, 7, 8, 9, 7],
        {2: (7,), 3: (5,)},
        {1: "a", 2: "b", 3: "c"},
    )
    assert found.stages == ((0, ((1, 1.0),)), (4, ((1, 1.0), (2, 0.5))))
    assert found.key == ((0, (("a", 1.0),)), (4, (("a", 1.0), ("b", 0.5))))
    assert found.at(3) == (((1, 1.0),), 4)
    assert found.at(4) == (((1, 1.0), (2, 0.5)), None)
    assert found.last == ((1, 1.0), (2, 0.5))


def test_keys_agree_up_to_where_they_differ():
    base, late, early = ((0, ()),), ((0, ()), (4, (("a", 1.0),))), ((0, (("a", 1.0),)),)
    assert agreement(base, base) is None
    assert agreement(base, late) == agreement(late, base) == 4
    assert agreement(late, early) == 0
    assert agreement(early, ((0, (("a", 0.5),)),)) == 0
    assert agreement(late, ((0, ()), (2, (("a", 1.0),)))) == 2


def test_before_the_invocation_the_base_computes_and_is_shared():
    prompt, scheduler = [*range(20), 40, 41, 3], Scheduler(FakeEngine())
    plain = run(scheduler, range(20), ())
    handle = scheduler.adapters.attach("late", scheduler.engine.prepare(adapter(1, (40, 41))))
    late = run(scheduler, prompt, ((handle, 1.0),))
    assert late.cached_tokens == 20
    assert late.adapters == (("late", 1.0),)
    cold = Scheduler(FakeEngine())
    again = cold.adapters.attach("late", cold.engine.prepare(adapter(1, (40, 41))))
    assert run(cold, prompt, ((again, 1.0),)).text == late.text
    rows = [row for step in cold.engine.steps for row in step]
    acted = [len(row.tokens) for row in rows if row.adapters]
    assert sum(len(row.tokens) for row in rows if not row.adapters) == 20
    assert acted[0] == 3
    assert run(scheduler, range(20), ()).text == plain.text  # nothing of the adapter's came back


def test_without_its_invocation_it_does_not_act_and_the_result_says_so():
    scheduler = Scheduler(FakeEngine())
    handle = scheduler.adapters.attach("late", scheduler.engine.prepare(adapter(1, (40, 41))))
    found = run(scheduler, [1, 2, 3], ((handle, 1.0),))
    assert found.adapters == ()
    assert found.text == run(Scheduler(FakeEngine()), [1, 2, 3], ()).text


HISTORY = Plan(((1, 1.0),), ((0, ()), (4, ((1, 1.0),))), ((0, ()), (4, (("a", 1.0),))))
BASE = Plan((), ((0, ()),), ((0, ()),))


def test_a_history_keeps_what_was_and_goes_on_with_another_plan():
    changed = HISTORY.then(BASE, 7)
    assert changed.adapters == ()
    assert changed.stages == ((0, ()), (4, ((1, 1.0),)), (7, ()))
    assert changed.key == ((0, ()), (4, (("a", 1.0),)), (7, ()))
    assert BASE.then(HISTORY, 2).stages == HISTORY.stages  # its own border is still to come
    assert BASE.then(HISTORY, 6).stages == ((0, ()), (6, ((1, 1.0),)))
    assert HISTORY.then(BASE, 0) == BASE


def test_there_and_back_before_a_token_was_fed_is_no_change():
    there = HISTORY.then(BASE, 7)
    assert there.then(HISTORY, 7) == HISTORY
    assert there.then(HISTORY, 8).stages == (*there.stages, (8, ((1, 1.0),)))
