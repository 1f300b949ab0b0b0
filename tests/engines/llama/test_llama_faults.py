"""Failing native calls, and values that are not finite: other sequences are not affected.

Each native call fails in turn; what the engine reports afterwards is right. After an error a
sequence is intact, or reports that it is empty if llama.cpp failed to remove its cells. No slot
leaks, and the engine keeps working.
"""

import numpy as np
import pytest
from llama_cases import logits_of, open_engine, row, truth_adapter

from lorakit.engines.llama import context, memory
from lorakit.errors import EngineError, LorakitError

WAYS = {  # what a call returns when it fails without effect
    "llama_decode": -3,
    "llama_init_from_model": None,
    "llama_memory_seq_cp": None,
    "llama_memory_seq_rm": False,
    "llama_set_adapters_lora": -1,
    "llama_state_seq_get_data": 0,
    "llama_state_seq_get_size": 0,
    "llama_state_seq_set_data": 0,
}
ASKED = ("llama_memory_seq_pos_max", "llama_memory_seq_pos_min", "llama_get_logits_ith")
LENGTH = 40  # more than two windows
PROMPTS = [[4 + (11 * at + start) % 490 for at in range(LENGTH)] for start in (0, 100, 300)]
NEXT = 77


class Faulty:
    """The native module, in which chosen calls fail."""

    def __init__(self, api):
        self._api = api
        self.reset()

    def reset(self, first=0, *, ever=False, raising=False):
        self.calls, self._first, self._ever, self._raising = 0, first, ever, raising

    def __getattr__(self, name):
        real = getattr(self._api, name)
        if name not in WAYS and name not in ASKED:
            return real

        def call(*arguments):
            if not self._raising and name in ASKED:
                return real(*arguments)
            self.calls += 1
            if self.calls == self._first or (self._ever and 0 < self._first < self.calls):
                if self._raising:
                    raise MemoryError("injected")
                return WAYS[name]
            return real(*arguments)

        return call


class Case:
    """An engine with three sequences under two sets, in two of at most two contexts."""

    def __init__(self, base, api):
        self.api = api
        self.engine = open_engine(base, max_batch=3, cached_sequences=3, contexts=2)
        names = ("plain", "plain_b")
        handles = [
            self.engine.attach(self.engine.prepare(truth_adapter(base, name))) for name in names
        ]
        self.sets = [(), ((handles[0], 1.0),), ((handles[1], 0.5),)]
        self.expected = {}

    def begin(self):
        self.names = [self.engine.open_sequence() for _ in PROMPTS]
        self.held = {name: (index, LENGTH) for index, name in enumerate(self.names)}
        for index, name in enumerate(self.names):
            self.engine.forward([row(name, PROMPTS[index], self.sets[index % 2], "none")])

    def check(self):
        """Every sequence holds what it reports, or nothing."""
        for name, (index, length) in self.held.items():
            if self.engine.length(name):
                assert self.engine.length(name) == length
                assert self.engine.reusable(name, length) == length
                (found,) = self.engine.forward([row(name, [NEXT], (), "last")])
                assert np.abs(found[0] - self.after(index, length)).max() < 2e-3
        found = logits_of(self.engine, PROMPTS[0][:9])[-1]
        assert np.abs(found - self.cold((("short",), PROMPTS[0][:9], ()))).max() < 2e-3

    def after(self, index, length):
        """The logits of NEXT, without adapters, after a part of a prompt under its own set."""
        key = (index, length)
        if key not in self.expected:
            name = self.engine.open_sequence()
            prompt = PROMPTS[index][:length]
            self.engine.forward([row(name, prompt, self.sets[index % 2], "none")])
            (found,) = self.engine.forward([row(name, [NEXT], (), "last")])
            self.expected[key] = found[0].copy()
            self.engine.close_sequence(name)
        return self.expected[key]

    def cold(self, case):
        key, prompt, chosen = case
        if key not in self.expected:
            self.expected[key] = logits_of(self.engine, prompt, chosen)[-1].copy()
        return self.expected[key]

    def end(self):
        for name in [*self.engine._pool._seats]:
            self.engine.close_sequence(name)
        for place in self.engine._pool:
            assert not place.lengths

    # The operations to try; each is one that a scheduler would do.

    def switched(self):
        """All rows under a set that is active in no context: two of them move."""
        return [row(name, [9, 10], self.sets[2], "last") for name in self.names]

    def run_switched(self):
        found = np.stack([logits[0] for logits in self.engine.forward(self.switched())])
        assert np.abs(found - self.expected.setdefault("switched", found.copy())).max() < 2e-3
        assert all(self.engine.length(name) == LENGTH + 2 for name in self.names)
        self.held = {}

    def grown(self):
        self.engine.forward(
            [
                row(name, PROMPTS[2] * 2, self.sets[at % 2], "none")
                for at, name in enumerate(self.names)
            ]
        )
        assert all(self.engine.length(name) == 3 * LENGTH for name in self.names)
        self.held = {}

    def fork(self):
        name = self.engine.fork(self.names[1], 25)
        self.held[name] = (1, 25)

    def truncate(self):
        self.engine.truncate(self.names[0], 33)
        self.held[self.names[0]] = (0, 33)

    def copy(self):
        name = self.engine.load_sequence(self.engine.save_sequence(self.names[2]), LENGTH)
        self.held[name] = (2, LENGTH)

    def close(self):
        self.engine.close_sequence(self.names.pop())
        self.held = {name: self.held[name] for name in self.names}


TRIED = (Case.run_switched, Case.grown, Case.fork, Case.truncate, Case.copy, Case.close)


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def case(request):
    patch = pytest.MonkeyPatch()
    api = Faulty(context.llama())
    for module in (context, memory):
        patch.setattr(module, "llama", lambda: api)
    found = Case(request.param, api)
    found.begin()
    found.check()
    found.end()
    found.begin()
    found.run_switched()
    for index in range(3):
        for length in (33, 50, LENGTH):
            found.after(index, length)
    found.end()
    yield found
    found.engine.close()
    patch.undo()


@pytest.mark.parametrize("way", ["once", "raising", "from then on"])
@pytest.mark.parametrize("tried", TRIED, ids=lambda tried: tried.__name__)
def test_after_any_fault_lengths_slots_and_the_others_are_right(case, tried, way):
    number, failed = 0, 0
    while True:
        number += 1
        case.begin()
        case.api.reset(number, ever=way == "from then on", raising=way == "raising")
        try:
            tried(case)
        except (LorakitError, MemoryError):
            failed += 1
        reached = case.api.calls >= number
        case.api.reset()
        case.check()
        case.end()
        if not reached:
            break
    assert number > 1
    assert failed or tried is Case.close
    for place in case.engine._pool:
        place.close(place.open())  # emptying is tried again
        assert place.used == 0
        assert place.free_slots == case.engine.capabilities.max_sequences


OVERFLOW = 1e30  # a scale


@pytest.mark.parametrize("base", ["gemma3", "llama"])
@pytest.mark.parametrize("contexts", [1, 8])
@pytest.mark.parametrize("wanted", ["last", "none"])
def test_overflows_affect_only_their_own_sequence(base, contexts, wanted):
    engine, handle, other = poisoned(base, contexts)
    before = logits_of(engine, PROMPTS[1]).copy()
    for prompt in (PROMPTS[0], [9]):
        bad = engine.open_sequence()
        with pytest.raises(EngineError, match="not finite"):
            engine.forward([row(bad, prompt, ((handle, OVERFLOW),), wanted)])
        assert (engine.length(bad), engine.length(other)) == (0, LENGTH)
        engine.close_sequence(bad)
        assert np.abs(logits_of(engine, PROMPTS[1]) - before).max() < 2e-3
    (found,) = engine.forward([row(other, [NEXT], (), "last")])
    expected = logits_of(engine, [*PROMPTS[0], NEXT])[-1]
    assert np.abs(found[0] - expected).max() < 2e-3
    assert sum(place.tainted for place in engine._pool) <= contexts - 1
    engine.close()


def test_unchecked_overflows_reach_others(monkeypatch):
    """The broken variant."""
    monkeypatch.setattr(context.Context, "_require_finite", lambda *_: None)
    engine, handle, other = poisoned("llama", 1)
    bad = engine.open_sequence()
    engine.forward([row(bad, PROMPTS[0], ((handle, OVERFLOW),), "none")])
    (found,) = engine.forward([row(other, [NEXT], (), "last")])
    assert np.isnan(found).any()
    engine.close()


def poisoned(base, contexts):
    engine = open_engine(base, max_batch=3, cached_sequences=3, contexts=contexts)
    other = engine.open_sequence()
    engine.forward([row(other, PROMPTS[0], (), "none")])
    return engine, engine.attach(engine.prepare(truth_adapter(base, "plain"))), other
