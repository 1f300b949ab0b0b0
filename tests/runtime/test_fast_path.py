"""Forced tokens, few columns and prompt lookup: every answer is the one of single steps."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from automaton import Automaton, Scripted, chain, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from single_steps import VOCABULARY, add, answer, drain, engine, naive, same

from lorakit.engines.protocol import Row
from lorakit.errors import EngineError
from lorakit.runtime import job as job_file
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.sampling import Sampler
from lorakit.runtime.scheduler import Scheduler

drawn_options = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.7, 2.0]),
        "seed": st.integers(0, 9),
        "top_k": st.integers(0, 3),
        "top_p": st.sampled_from([0.6, 1.0]),
        "stop": st.sampled_from([("3 4",), ("2 ", "5 1")]),
        "min_tokens": st.integers(0, 8),
        "max_tokens": st.integers(8, 20),
        "logprobs": st.integers(0, 2),
        "repetition_penalty": st.just(1.5),
        "logit_bias": st.sampled_from([{2: 2.0}, {3: -100.0}]),
        "lookup": st.booleans(),
    },
)


def repeatable(options):
    return {**options, "seed": options.get("seed", 0)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 30),
    options=drawn_options,
    few=st.sampled_from([0, 3]),
    lookup=st.booleans(),
)
def test_a_constrained_answer_is_that_of_single_steps(seed, length, options, few, lookup):
    random = np.random.default_rng(seed)
    automaton = drawn(random, VOCABULARY)
    prompt, options = random.integers(1, VOCABULARY, length).tolist(), repeatable(options)
    constraint = Scripted(automaton)
    try:
        expected = naive(prompt, automaton, **options)
    except EngineError as error:  # a bias rules out all that may come
        with pytest.raises(EngineError, match=str(error)):
            answer(prompt, constraint, engine(few=few, lookup=lookup), **options)
        return
    found, steps = answer(prompt, constraint, engine(few=few, lookup=lookup), **options)
    same(found, expected)
    assert constraint.accepted == [choice.token for choice in found.tokens]
    assert all(row.among is None for rows in steps for row in rows) or few


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 40), options=drawn_options)
def test_a_free_answer_with_lookup_is_that_of_single_steps(seed, length, options):
    prompt = np.random.default_rng(seed).integers(1, VOCABULARY, length).tolist()
    options = {**repeatable(options), "lookup": True}
    found, _ = answer(prompt, **options)
    same(found, naive(prompt, **options))


def copying(**options):
    """A greedy answer in which proposals are right: everything else is ruled out in turn."""
    prompt = [1, 2, 3, 4, 5] * 3
    return answer(prompt, Scripted(chain(*[1, 2, 3, 4, 5] * 4)), **options)


def test_forced_tokens_cost_no_step_of_their_own():
    found, steps = copying(max_tokens=30)
    assert [choice.token for choice in found.tokens] == [1, 2, 3, 4, 5] * 4
    assert (found.finish_reason, steps) == ("stop", [])  # nothing is computed for a fixed answer


def test_forced_tokens_ride_along_in_the_next_row():
    automaton = chain(1, 2, 3, 4, 5)
    automaton.steps[2].update({4: 3})  # a choice after 1, 2
    found, steps = answer([5, 5, 5], Scripted(automaton))
    assert len(found.tokens) == 5
    (row,) = [row for rows in steps for row in rows]
    assert row.tokens.tolist() == [5, 5, 5, 1, 2]
    assert row.among.tolist() == [3, 4]


@dataclass
class Logged(Scripted):
    """first: of each position, whether its mask was asked for before the step, or beside it."""

    first: dict = field(default_factory=dict)

    def allowed(self, most):
        self.first.setdefault(len(self.accepted), "before")
        return super().allowed(most)

    def prepare(self, draft=()):
        self.first.setdefault(len(self.accepted), "beside")
        super().prepare(draft)


def test_a_wide_mask_is_made_beside_the_step():
    few, wide = (3, 4), range(1, VOCABULARY)
    ways = ((1,), (2,), few, few, wide, wide, wide, (2,), few, wide)
    automaton = Automaton((*(dict.fromkeys(way, at + 1) for at, way in enumerate(ways)), {}))
    constraint = Logged(automaton)
    found, steps = answer([5], constraint, engine(few=3), lookup=False)
    assert len(found.tokens) == len(ways)
    (*rows,) = (row for step in steps for row in step)
    assert [row.among is not None for row in rows] == [1, 1, 0, 0, 0, 1, 0]
    # That the first wide one is wide is not known; after it, it is, until something is forced.
    assert constraint.first == {
        2: "before", 3: "before", 4: "before", 5: "beside", 6: "beside", 8: "before", 9: "before"
    }  # fmt: skip


def test_an_answer_that_may_begin_with_anything_has_its_first_mask_beside_the_prompt():
    constraint = Logged(Automaton((dict.fromkeys(range(1, VOCABULARY), 1), {3: 2, 4: 2}, {})))
    answer([5], constraint, engine(few=3), lookup=False)
    assert constraint.first == {0: "beside", 1: "beside"}


@pytest.mark.parametrize("most", range(1, 6))
def test_a_cut_answer_is_cut_where_single_steps_are(most):
    automaton = chain(1, 2, 3, 4, 5)
    found, _ = answer([5, 5], Scripted(automaton), max_tokens=most)
    assert len(found.tokens) == most
    assert found.finish_reason == ("length" if most < 5 else "stop")


def test_the_context_ends_a_forced_run():
    found, _ = answer([5] * 10, Scripted(chain(*[1, 2] * 20)), engine(context=16), max_tokens=40)
    same(found, naive([5] * 10, chain(*[1, 2] * 20), context=16, max_tokens=40))
    assert (len(found.tokens), found.finish_reason) == (7, "length")


def test_log_probabilities_are_of_both_distributions():
    automaton = chain(1, 2, 3, 4)
    automaton.steps[1].update({3: 2})
    found, steps = answer([5, 5], Scripted(automaton), logprobs=1)
    same(found, naive([5, 5], automaton, logprobs=1))
    forced, chosen = found.tokens[0], found.tokens[1]
    assert forced.constrained_logprob == 0.0 > forced.logprob
    assert 0.0 > chosen.constrained_logprob > chosen.logprob
    assert answer([5, 5], logprobs=1)[0].tokens[0].constrained_logprob is None
    assert len(steps) < 4


def test_a_masked_draw_is_from_the_distribution_that_is_left():
    """Drawing again where the first draw is forbidden, or with top-k before the mask, is not it."""
    logits = np.float32([2, 1, 0, -1, 3])
    odd = chain(1, 1)
    odd.steps[0].update({3: 1})
    counts = Counter(
        Sampler(
            SamplingParams(temperature=1.0, top_k=2, seed=seed), [], Scripted(odd)
        ).choose(logits).token
        for seed in range(2000)
    )  # fmt: skip
    share = np.exp(1) / (np.exp(1) + np.exp(-1))
    assert set(counts) == {1, 3}
    assert abs(counts[1] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def chi_square(seeds, **options):
    """Of the first two tokens against their probabilities, and how many steps were saved."""
    prompt, counts, saved = [1, 2, 3, 1, 2, 3, 1, 2], Counter(), 0
    scheduler = Scheduler(engine(vocabulary=4, max_batch=8, max_sequences=16))
    jobs = [
        add(scheduler, prompt, temperature=1.0, seed=seed, max_tokens=4, ignore_eos=True, **options)
        for seed in range(seeds)
    ]
    for job in jobs:
        job.answer._stops = frozenset()
    drain(scheduler)
    for job in jobs:
        found = job.generation.result().tokens
        counts[found[0].token, found[1].token] += 1
    saved = sum(len(row.tokens) > 1 for rows in scheduler.engine.steps for row in rows)
    own, expected = engine(vocabulary=4), {}
    for one in range(4):
        row = Row(sequence=own.open_sequence(), tokens=np.array([*prompt, one]), logits=(7, 8))
        first, second = (np.exp(x - x.max()) for x in own.forward([row])[0])
        own.close_sequence(row.sequence)
        for two in range(4):
            expected[one, two] = seeds * first[one] / first.sum() * second[two] / second.sum()
    return sum((counts[pair] - e) ** 2 / e for pair, e in expected.items()), saved


def test_sampled_text_with_lookup_follows_the_distribution():
    found, saved = chi_square(600, lookup=True)
    plain, none = chi_square(600, lookup=False)
    assert found == plain < 37.7  # 15 degrees of freedom, p = 0.001; and the same tokens
    assert saved > none + 100


def test_the_same_tokens_come_in_fewer_steps():
    options = {"logit_bias": {1: 40.0}, "max_tokens": 24}
    found, steps = answer([1, 1, 1, 1], lookup=True, **options)
    plain, single = answer([1, 1, 1, 1], **options)
    assert found.tokens == plain.tokens
    assert (len(steps), len(single)) == (4, 24)  # one token, and then nine, nine and five


def test_lookup_that_accepts_without_checking_is_found(monkeypatch):
    monkeypatch.setattr(job_file, "_alike", lambda some, others: len(some))
    prompt = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    wrong = answer(prompt, lookup=True)[0]
    monkeypatch.undo()
    right = answer(prompt, lookup=True)[0]
    same(right, naive(prompt))
    assert wrong.text != right.text
