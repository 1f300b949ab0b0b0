"""Several answers to one prompt: n= of complete, acomplete, chat and achat."""

import asyncio

import pytest

import lorakit
from lorakit import demo
from lorakit.errors import DeadlineError, ParameterError, QueueFullError
from lorakit.runtime.scheduler import Scheduler

LIGHTS = [{"role": "user", "content": "turn the lights off in the kitchen"}]


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1, max_queue=6) as model:
        model.load_adapter(demo.adapter_path("home")).apply()
        yield model


def test_each_choice_is_the_answer_of_its_own_seed(model):
    prompt = model.chat_prompt(LIGHTS)
    found = model.complete(prompt, n=3, seed=7, temperature=9.0, max_tokens=12)
    assert found.choices[0] is found
    alone = [model.complete(prompt, seed=7 + i, temperature=9.0, max_tokens=12) for i in range(3)]
    assert [each.text for each in found.choices] == [each.text for each in alone]
    assert len({each.text for each in alone}) > 1  # or nothing was seen
    later = asyncio.run(model.acomplete(prompt, n=3, seed=7, temperature=9.0, max_tokens=12))
    assert [each.text for each in later.choices] == [each.text for each in alone]


def test_seeds_go_round_at_their_end(model):
    last = model.complete("x", n=2, seed=(1 << 63) - 1, temperature=1.0, max_tokens=4)
    assert last.choices[1].text == model.complete("x", seed=0, temperature=1.0, max_tokens=4).text


def test_without_a_seed_they_differ_and_greedy_ones_do_not(model):
    free = model.complete("hello", n=4, temperature=9.0, max_tokens=16)
    assert len({each.text for each in free.choices}) > 1
    same = model.complete("hello", n=2, temperature=0, max_tokens=8)
    assert len({each.text for each in same.choices}) == 1


def test_they_run_as_rows_of_one_step_on_one_computation_of_the_prompt(model, monkeypatch):
    steps, run = [], Scheduler._forward

    def watched(self, rows):
        steps.append([len(row.tokens) for row in rows])
        return run(self, rows)

    monkeypatch.setattr(Scheduler, "_forward", watched)
    prompt = list(range(300, 420))
    found = model.complete(prompt, n=3, seed=1, temperature=1.0, max_tokens=6, ignore_eos=True)
    assert sum(map(sum, steps)) < 2 * len(prompt)
    assert max(map(len, steps)) == 3
    assert [each.cached_tokens for each in found.choices[1:]] == [len(prompt) - 1] * 2
    steps.clear()
    model.batch(  # what must be seen: prompts that share nothing are computed one by one
        lorakit.Request(prompt=[i + 1, *prompt[1:]], max_tokens=2) for i in range(3)
    )
    assert sum(map(sum, steps)) > 2 * len(prompt)


def test_a_chat_has_a_reply_for_each(model):
    reply = model.chat(LIGHTS, n=2, seed=3, temperature=9.0, max_tokens=24)
    assert reply.choices[0] is reply
    assert reply.completion.choices[1] is reply.choices[1].completion
    wanted = [model.chat(LIGHTS, seed=3 + i, temperature=9.0, max_tokens=24) for i in range(2)]
    for each, alone in zip(reply.choices, wanted, strict=True):
        assert (each.text, each.tool_calls) == (alone.text, alone.tool_calls)
    later = asyncio.run(model.achat(LIGHTS, n=2, seed=3, temperature=9.0, max_tokens=24))
    assert [str(each) for each in later.choices] == [str(each) for each in reply.choices]
    assert model.chat(LIGHTS, max_tokens=1).choices[1:] == ()


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2", None])
def test_n_is_a_whole_number(model, n):
    with pytest.raises(ParameterError, match="n must be"):
        model.complete("x", n=n)


@pytest.mark.parametrize("n", [100, 10**9, 1 << 63])
def test_more_than_the_queue_holds_end_together(model, n):
    with pytest.raises(QueueFullError):
        model.complete("hello", n=n, max_tokens=200, ignore_eos=True)
    (later,) = model.batch([lorakit.Request(prompt="hello", max_tokens=1)], timeout=60)
    assert later.tokens  # nothing of it is left in the way


def test_a_deadline_ends_all(model):
    with pytest.raises(DeadlineError):
        model.complete("hello", n=3, max_tokens=10_000, ignore_eos=True, timeout=1e-6)


def test_n_is_no_sampling_parameter():
    with pytest.raises(ParameterError, match="unknown sampling parameters: n"):
        lorakit.Request(prompt="x", n=2)
