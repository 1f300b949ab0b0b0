"""Requests that get several tokens by a step, beside others, changes of adapters, and failures."""

import time

import numpy as np
import pytest
from automaton import Scripted, chain, drawn
from single_steps import VOCABULARY, add, answer, drain, engine, naive, same

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Row
from lorakit.errors import CancelledError, EngineError
from lorakit.runtime.job import Job
from lorakit.runtime.scheduler import Scheduler
from runtime_cases import adapter


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
