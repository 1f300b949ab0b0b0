"""An engine that fails at one call, each in turn: one request may lose by it, and nobody else."""

import random

import numpy as np
import pytest
from automaton import Plain, Scripted, drawn

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Row
from lorakit.errors import EngineError, LorakitError
from lorakit.runtime import job as job_file
from lorakit.runtime.computations import HiddenOf, LoadedState, LogitsOf, SavedState
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.sequences import Sequences
from runtime_cases import Numbers, adapter

SEEDS = 1000
MOST_CALLS = 140  # of a workload; some are shorter
CALLS = {"detach", "open_sequence", "length", "reusable", "truncate", "fork", "close_sequence"}
CALLS |= {"save_sequence", "load_sequence", "hidden", "forward"}
LATE = {"forward", "truncate"}  # these may also fail when they have done their work
STEPS = 5000  # far more than any of these workloads takes


class Faulty:
    """A fake engine whose call number `at` fails."""

    def __init__(self, engine, at=0, error=None, late=False):
        self.engine, self.at, self.error, self.late = engine, at, error, late
        self.count = 0

    def __getattr__(self, name):
        found = getattr(self.engine, name)
        return self._guarded(name, found) if name in CALLS else found

    def _guarded(self, name, found):
        def call(*arguments):
            self.count += 1
            if self.count != self.at:
                return found(*arguments)
            if self.late and name in LATE:
                found(*arguments)
            raise self.error

        return call


class Recorded(Job):
    """Keeps the history under which each of its tokens was sampled; None for forced ones."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.histories = []
        choose, choices = self.answer.choose, self.answer.choices

        def recorded(logits, context):
            self.histories += [None] * (len(choices) - len(self.histories))
            self.histories.append(self.plan)
            choose(logits, context)

        self.answer.choose = recorded


class Workload:
    """Requests, computations and changes of adapters between the steps of a scheduler."""

    vocabulary = 64
    common = 7  # the token that prompts begin with

    def __init__(self, seed, at=0, error=None, late=False):
        self.random = random.Random(seed)
        choose = self.random.choice
        self.fake = FakeEngine(
            vocabulary=self.vocabulary,
            max_batch=choose((1, 2, 4)),
            max_sequences=choose((2, 4, 6)),
            prefill_chunk=choose((4, 16)),
        )
        self.fake.max_sequences = max(self.fake.max_sequences, self.fake.max_batch)
        self.engine = Faulty(self.fake, at, error, late)
        self.scheduler = Scheduler(self.engine)
        self.handles = [
            self.scheduler.adapters.attach(str(n), self.scheduler.engine.prepare(adapter(n)))
            for n in range(3)
        ]
        self.jobs, self.computations = [], []
        self.run()

    def run(self):
        for _ in range(14):
            self.random.choice(
                (self.request, self.request, self.request, self.change, self.compute)
            )()
            for _ in range(self.random.randrange(5)):
                self.scheduler.step()
            self.read()
        self.scheduler.activate((), "keep")
        for handle in self.handles:
            self.scheduler.retire(handle)
        for job in self.jobs:
            job.generation._run_free()
        self.drain()
        self.calls = self.engine.count
        self.request(live=True)  # whatever failed, the model goes on
        self.jobs[-1].generation._run_free()
        self.drain()

    def drain(self):
        for _ in range(STEPS):
            if not self.scheduler.step():
                return
        raise AssertionError("the scheduler does not come to an end")

    def prompt(self):
        return [self.common] * self.random.randrange(1, 20) + [
            self.random.randrange(3) for _ in range(3)
        ]

    def chosen(self):
        scales = {h: self.random.choice((1.0, 0.5)) for h in self.random.sample(self.handles, 2)}
        return tuple(scales.items())[: self.random.randrange(3)]

    def request(self, live=False):
        live = live or self.random.random() < 0.4
        generation = Generation(
            tuple(self.prompt()),
            SamplingParams(max_tokens=self.random.randrange(1, 8)),
            adapters=None if live else self.chosen(),
            lookahead=self.random.choice((None, 0, 1)),
        )
        self.jobs.append(Recorded(generation, Numbers(), frozenset()))
        self.scheduler.add(self.jobs[-1])

    def change(self):
        self.scheduler.activate(self.chosen(), self.random.choice(("keep", "recompute")))

    def compute(self):
        saved = [c for c in self.computations if isinstance(c, SavedState) and c.future.done()]
        kind = self.random.choice((LogitsOf, HiddenOf, SavedState, LoadedState))
        if kind is not LoadedState:
            self.queue(kind(self.prompt(), self.chosen()))
        elif saved and not saved[-1].future.exception():
            self.queue(LoadedState(saved[-1].future.result()))

    def queue(self, computation):
        self.computations.append(computation)
        self.scheduler.add(computation)

    def read(self):
        for job in self.jobs:
            if self.random.random() < 0.5:
                job.generation._unread.clear()

    def failures(self):
        """Errors of requests and computations; whatever did not fail must be right."""
        found = []
        for job in self.jobs:
            assert job.generation.done
            outcome = job.generation._outcome
            if isinstance(outcome, LorakitError):
                found.append(outcome)
            else:
                assert [c.token for c in outcome.tokens] == self.expected(job, outcome.tokens)
        for computation in self.computations:
            assert computation.future.done()
            if error := computation.future.exception():
                found.append(error)
            elif isinstance(computation, LogitsOf):
                cold = self.cold(computation.tokens, computation.plan, "all")
                np.testing.assert_array_equal(computation.future.result(), cold)
        return found

    def expected(self, job, tokens):
        """The tokens, each computed from the beginning under the history that it had."""
        before, found = list(job.generation.prompt), []
        for history in job.histories:
            found.append(int(self.cold(np.asarray(before), history, "last")[-1].argmax()))
            before.append(found[-1])
        return found

    def cold(self, tokens, plan, logits):
        engine, at, parts = FakeEngine(vocabulary=self.vocabulary), 0, []
        engine._adapters = {h: adapter(n).digest for n, h in enumerate(self.handles)}
        sequence = engine.open_sequence()
        while at < len(tokens):
            chosen, border = plan.at(at)
            end = min(len(tokens), border or len(tokens))
            row = Row(sequence=sequence, tokens=tokens[at:end], adapters=chosen, logits=logits)
            parts.append(engine.forward([row])[0])
            at = end
        return np.concatenate(parts)

    def check_nothing_is_left(self):
        scheduler = self.scheduler
        assert not [*scheduler.running, *scheduler.waiting, *scheduler.parked]
        assert scheduler._sequences.room == self.fake.max_sequences - len(self.fake._states)
        assert set(self.fake._states) == {prefix.sequence for prefix in scheduler._prefixes}
        assert not self.fake._adapters
        assert not len(scheduler.adapters)


class FastWorkload(Workload):
    """The same with forced tokens, few columns and lookup; so few tokens that it is often right."""

    vocabulary = 6
    common = 5

    def request(self, live=False):
        live = live or self.random.random() < 0.4
        logprobs, lookup = self.random.choice((None, None, 0)), self.random.choice((None, True))
        generation = Generation(
            tuple(self.prompt()),
            SamplingParams(max_tokens=12, logprobs=logprobs, lookup=lookup),
            adapters=None if live else self.chosen(),
            lookahead=self.random.choice((None, None, 0, 1)),
        )
        numbers = np.random.default_rng(self.random.randrange(1000))
        constraint = Scripted(drawn(numbers, 6)) if self.random.random() < 0.7 else None
        self.jobs.append(Recorded(generation, Numbers(), frozenset(), constraint))
        self.scheduler.add(self.jobs[-1])

    def expected(self, job, tokens):
        constraint = job.answer._sampler.constraint
        if constraint is None:
            return super().expected(job, tokens)
        naive, before, found = Plain(constraint.automaton), list(job.generation.prompt), []
        histories = job.histories + [None] * (len(tokens) - len(job.histories))
        for history in histories:
            if history is None or naive.forced():
                (token,) = naive.forced()
            else:
                logits = self.cold(np.asarray(before), history, "last")[-1]
                token = int(naive.mask(logits).argmax())
            naive.accept(token)
            found.append(token)
            before.append(token)
        return found


def workload(seed, kind=Workload, **fault):
    found = kind(seed, **fault)
    failures = found.failures()
    found.check_nothing_is_left()
    return found, failures


def failing(seed, kind=Workload):
    """A workload of which one call fails, with an error of one kind or another."""
    choose = random.Random(f"fault {seed}")
    error = choose.choice(
        (EngineError("broken"), MemoryError(), RuntimeError("broken"), KeyError(1))
    )
    return workload(
        seed, kind, at=choose.randrange(1, MOST_CALLS), error=error, late=choose.random() < 0.5
    )


@pytest.mark.parametrize(("kind", "seeds"), [(Workload, SEEDS), (FastWorkload, 150)])
def test_a_call_that_fails_ends_one_request_at_most(kind, seeds):
    lost = came = 0
    for seed in range(seeds):
        found, failures = failing(seed, kind)
        came += found.engine.at <= found.calls
        assert len(failures) <= 1, f"seed {seed}: {failures}"
        assert all(isinstance(error, EngineError) for error in failures), f"seed {seed}"
        if found.engine.at <= found.calls:
            assert found.jobs[-1].answer.choices, f"seed {seed}: the model did not go on"
        lost += len(failures)
    assert came > seeds // 2
    assert 0 < lost < came  # most calls can be done without, or again


def first_fault(seeds=200, kind=Workload):
    """What the first seed that shows a fault raises."""
    for seed in range(seeds):
        failures = failing(seed, kind)[1]
        assert len(failures) <= 1


def test_what_happens_if_a_failed_step_is_not_asked_about(monkeypatch):
    monkeypatch.setattr(Scheduler, "_resume", lambda self, jobs: None)
    with pytest.raises(AssertionError):
        first_fault()


def test_what_happens_if_wrong_proposals_stay(monkeypatch):
    monkeypatch.setattr(job_file, "_alike", lambda some, others: len(some))
    with pytest.raises((AssertionError, IndexError)):
        first_fault(kind=FastWorkload)


def test_what_happens_if_wrong_proposals_stay_in_the_cache(monkeypatch):
    def absorb(self, job, row, logits):
        self._end_if(job, job.absorb(row, logits, self._capabilities))

    monkeypatch.setattr(Scheduler, "_absorb", absorb)
    with pytest.raises(AssertionError):
        first_fault(kind=FastWorkload)


def test_what_happens_if_a_cut_may_raise(monkeypatch):
    def cut(self, sequence, length):
        self._engine.truncate(sequence, length)
        return True

    monkeypatch.setattr(Sequences, "cut", cut)
    with pytest.raises((AssertionError, EngineError, MemoryError, RuntimeError, KeyError)):
        first_fault()


def test_what_happens_if_a_step_fails_as_a_whole(monkeypatch):
    def isolate(self, jobs, error):
        for job in jobs:
            self._fail(job, error)

    monkeypatch.setattr(Scheduler, "_isolate", isolate)
    with pytest.raises(AssertionError):
        first_fault()
