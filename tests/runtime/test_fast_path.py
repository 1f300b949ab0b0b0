"""Forced tokens, few columns and prompt lookup: every answer is the one of single steps."""

import time
from collections import Counter

import numpy as np
import pytest
from automaton import END, Plain, Scripted, chain, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Row
from lorakit.errors import CancelledError, EngineError
from lorakit.runtime import job as job_file
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.sampling import Sampler
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.stopping import StopText
from runtime_cases import Numbers, adapter

VOCABULARY = 6  # so few that proposals are often right


def engine(**options):
    return FakeEngine(**{"vocabulary": VOCABULARY, "prefill_chunk": 8, **options})


def add(scheduler, prompt, constraint=None, adapters=(), *, lookahead=None, **options):
    generation = Generation(
        tuple(prompt),
        SamplingParams(**{"max_tokens": 12, **options}),
        adapters=adapters,
        lookahead=lookahead,
    )
    job = Job(generation, Numbers(), frozenset({END}), constraint)
    scheduler.add(job)
    return job


def drain(scheduler):
    while scheduler.step():
        pass


def answer(prompt, constraint=None, made=None, **options):
    """Its completion, the engine's steps, and the job."""
    scheduler = Scheduler(made or engine())
    job = add(scheduler, prompt, constraint, **options)
    drain(scheduler)
    assert not scheduler.running
    return job.generation.result(), scheduler.engine.steps


def naive(prompt, automaton=None, context=256, **options):
    """Token after token: (choices, text, reason), from logits of the whole history."""
    params = SamplingParams(**{"max_tokens": 12, **options})
    constraint = None if automaton is None else Plain(automaton)
    sampler, stop = Sampler(params, prompt, constraint, {END}), StopText(params.stop)
    tokens, choices, text = list(prompt), [], ""
    while True:
        if constraint is not None and constraint.ended:
            return choices, text + stop.flush(), "stop"
        if choices and (len(choices) >= params.max_tokens or len(tokens) > context):
            return choices, text + stop.flush(), "length"
        own = engine(context=1000)
        row = Row(sequence=own.open_sequence(), tokens=np.array(tokens, np.int64))
        choices.append(sampler.choose(own.forward([row])[0][0]))
        if choices[-1].token == END:
            return choices, text + stop.flush(), "stop"
        tokens.append(choices[-1].token)
        piece = f"{tokens[-1]} "
        text += piece if len(choices) <= params.min_tokens else stop.push(piece)
        if stop.stopped:
            return choices, text, "stop"


def same(found, expected):
    assert (list(found.tokens), found.text, found.finish_reason) == expected


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


def test_masks_are_prepared_for_each_step_with_its_draft():
    automaton = drawn(np.random.default_rng(3), VOCABULARY)
    constraint = Scripted(automaton)
    _, steps = answer([1, 2, 3, 1, 2, 3], constraint, engine(few=0), max_tokens=20)
    rows = [row for rows in steps for row in rows if row.logits != "none"]
    assert len(constraint.prepared) == len(rows)
    drafts = [len(row.positions) - 1 for row in rows]
    assert [len(draft) for draft in constraint.prepared] == drafts


def test_a_failed_step_leaves_the_constraint_where_it_was():
    automaton = drawn(np.random.default_rng(5), VOCABULARY)
    failing = engine()
    scheduler, failures = Scheduler(failing), [2, 3, 5]
    constraints = [Scripted(automaton), Scripted(automaton)]
    jobs = [add(scheduler, [1 + n, 2, 3], c) for n, c in enumerate(constraints)]

    def fail(rows):
        if len(rows) > 1 and len(failing.steps) in failures:
            before = [list(c.accepted) for c in constraints]
            failures.remove(len(failing.steps))
            seen.append(before)
            raise EngineError("broken")

    seen: list = []
    failing.before_step = fail
    drain(scheduler)
    assert seen
    for n, (job, constraint) in enumerate(zip(jobs, constraints, strict=True)):
        same(job.generation.result(), naive([1 + n, 2, 3], automaton))
        assert constraint.accepted == [c.token for c in job.generation.result().tokens]


@pytest.mark.parametrize("method", ["forced", "allowed", "prepare", "fitting", "mask", "accept"])
def test_a_constraint_that_fails_ends_its_request_alone(method):
    def fail(*arguments):
        raise EngineError("too much work")

    automaton = chain(*[1, 2] * 20)
    for at in range(0, 40, 4):
        automaton.steps[at].update({3: at + 1})  # choices, with forced tokens between them
    failing = Scripted(automaton)
    setattr(failing, method, fail)
    scheduler = Scheduler(engine(few=16 if method == "allowed" else 0))
    bad = add(scheduler, [1, 2] * 9, failing, temperature=1.0, seed=1, max_tokens=100)
    good = add(scheduler, [1, 2])
    drain(scheduler)
    with pytest.raises(EngineError, match="too much work"):
        bad.generation.result()
    same(good.generation.result(), naive([1, 2]))


def test_forced_runs_are_not_delayed_by_prompts():
    """A row of a decoding request runs in every step, whatever prompts wait."""
    automaton = drawn(np.random.default_rng(8), VOCABULARY)
    scheduler = Scheduler(engine())
    first = add(scheduler, [1, 2, 3], Scripted(automaton), max_tokens=20)
    scheduler.step()
    sequence = first.sequence
    add(scheduler, [4] * 100)
    while not first.generation.done:
        scheduler.step()
        assert any(row.sequence == sequence for row in scheduler.engine.steps[-1])
    same(first.generation.result(), naive([1, 2, 3], automaton, max_tokens=20))


def test_a_live_stream_that_is_read_piece_by_piece_looks_nothing_up():
    options = {"logit_bias": {1: 40.0}, "lookup": True, "lookahead": 0}
    for adapters, most in ((None, 1), ((), 9)):
        scheduler = Scheduler(engine())
        job = add(scheduler, [1, 1, 1, 1], adapters=adapters, **options)
        pieces = []
        for _ in range(6):
            job.generation._wanted += 1  # a reader waits
            drain(scheduler)
            pieces.append(len(job.generation._unread))
            job.generation._unread.clear()
            job.generation._wanted -= 1
        assert max(pieces) == most if most == 1 else max(pieces) > 1


def all_but_the_last_are_fed(patch):
    absorb = Job.absorb

    def wrong(self, row, logits, limits):
        reason = absorb(self, row, logits, limits)
        self.fed = len(self.tokens) - 1
        return reason

    patch.setattr(Job, "absorb", wrong)


def test_forced_tokens_that_count_as_fed_are_found(monkeypatch):
    all_but_the_last_are_fed(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_change_acts_on_forced_tokens_that_were_not_fed("keep")


@pytest.mark.parametrize("policy", ["keep", "recompute"])
def test_a_change_acts_on_forced_tokens_that_were_not_fed(policy):
    """Emitted, but not yet run by any step: the new set acts on them under both policies."""
    scheduler = Scheduler(engine())
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    automaton = chain(1, 2, 3, 4, 5)
    automaton.steps[0].update({5: 1})  # a choice, three forced tokens, a choice
    automaton.steps[4].update({4: 5})
    job = add(scheduler, [5, 5], Scripted(automaton), None)
    scheduler.step()
    assert job.pending == 4
    scheduler.activate(((handle, 1.0),), policy)
    start = 2 if policy == "keep" else 0
    assert [begin for begin, _ in job.key] == sorted({0, start})
    drain(scheduler)
    found = job.generation.result().tokens
    own = engine()
    held = own.attach(own.prepare(adapter(1)))
    sequence, tokens = own.open_sequence(), [5, 5, *(c.token for c in found[:4])]
    if start:
        own.forward([Row(sequence=sequence, tokens=np.array(tokens[:start]))])
    row = Row(sequence=sequence, tokens=np.array(tokens[start:]), adapters=((held, 1.0),))
    logits = own.forward([row])[0][0]
    assert found[4].token == 4 + int(logits[5] > logits[4])


def test_parked_and_resumed_answers_are_those_of_single_steps():
    automaton = drawn(np.random.default_rng(11), VOCABULARY)
    scheduler = Scheduler(engine(max_batch=2, max_sequences=2))
    jobs = [
        add(scheduler, [1 + n, 2, 1, 2], Scripted(automaton), lookahead=1, max_tokens=16)
        for n in range(4)
    ]
    text = [""] * 4
    limit = time.monotonic() + 20
    while any(not job.generation.done or job.generation._unread for job in jobs):
        assert time.monotonic() < limit
        for at, job in enumerate(jobs):
            if job.generation._unread:
                text[at] += job.generation._unread.popleft()
            drain(scheduler)
    for n, job in enumerate(jobs):
        same(job.generation.result(), naive([1 + n, 2, 1, 2], automaton, max_tokens=16))
        assert text[n] == job.generation.result().text


def test_a_cancelled_answer_ends_between_its_forced_runs():
    scheduler = Scheduler(engine())
    job = add(scheduler, [1, 2], Scripted(drawn(np.random.default_rng(8), VOCABULARY)))
    scheduler.step()
    job.generation.cancel()
    drain(scheduler)
    with pytest.raises(CancelledError):
        job.generation.result()
    assert not scheduler.running


def test_an_engine_that_cannot_forget_is_asked_once():
    class Forgets(FakeEngine):
        def reusable(self, sequence, length):
            return 0 if length < self.length(sequence) else length

    prompt = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    made = Forgets(vocabulary=VOCABULARY, prefill_chunk=8)
    found, steps = answer(prompt, lookup=True, made=made, max_tokens=20)
    same(found, naive(prompt, max_tokens=20))
    drafts = [row for rows in steps for row in rows if len(row.positions) > 1]
    assert len(drafts) <= 2
