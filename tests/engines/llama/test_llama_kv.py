"""A sliding window drops nothing: interleavings equal cold runs, and what is lost is said."""

import numpy as np
import pytest
from kv_driver import Driver
from llama_cases import logits_of, open_engine, row

from lorakit.engines.llama import lane, memory
from lorakit.errors import EngineError, ParameterError

PROMPT = [4 + (7 * at) % 490 for at in range(200)]


@pytest.mark.parametrize(
    ("kv_type", "seeds"), [("f32", range(6)), ("f16", range(2)), ("q8_0", range(2))]
)
def test_any_interleaving_equals_cold_runs_under_a_window(kv_type, seeds):
    for seed in seeds:
        driver = Driver("gemma3", seed, kv_type, contexts=1 + seed % 3)
        driver.run(25)
        assert not driver.lost
        driver.close()


def test_without_shadows_the_driver_finds_cells_that_were_dropped(monkeypatch):
    """The broken variant: llama.cpp's cache as it comes, whose answers nobody checks."""
    monkeypatch.setattr(lane, "Memory", lambda context, slots, window: Trusting(context, slots, 0))
    with pytest.raises((AssertionError, EngineError)):
        drive(range(6))


def test_without_shadows_the_engine_says_what_it_lost(monkeypatch):
    monkeypatch.setattr(
        lane, "Memory", lambda context, slots, window: memory.Memory(context, slots, 0)
    )
    engine = open_engine("gemma3", max_batch=2, cached_sequences=2)
    passing, first = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(passing, PROMPT[:100], (), "none")])
    engine.forward([row(first, PROMPT[:120], (), "none")])
    engine.close_sequence(passing)
    second = engine.open_sequence()
    engine.forward([row(second, PROMPT[:100], (), "none")])  # where the passing one was
    engine.forward([row(second, PROMPT[:10], (), "none")])  # behind the window of the first one
    assert engine.length(first) == 120
    assert engine.reusable(first, 100) == 0
    for refused in (engine.truncate, engine.fork):
        with pytest.raises(EngineError, match="holds only 0"):
            refused(first, 100)
    assert engine.length(first) == 120
    engine.close()


def drive(seeds):
    for seed in seeds:
        driver = Driver("gemma3", seed)
        driver.run(25)
        driver.close()


class Trusting(memory.Memory):
    def whole(self, slot, length):
        return length

    def _require(self, slot, length):
        pass


def test_a_copy_between_contexts_is_exact_and_whole():
    for kv_type in ("f32", "f16", "q8_0"):
        engine = open_engine("gemma3", max_batch=2, cached_sequences=4, kv_type=kv_type)
        sequence = engine.open_sequence()
        engine.forward([row(sequence, PROMPT, (), "none")])
        state = engine.save_sequence(sequence)
        again = engine.load_sequence(state, len(PROMPT))
        assert engine.save_sequence(again) == state
        for length in (200, 100, 17, 1):
            assert engine.reusable(again, length) == length
        forks = [engine.fork(name, 60) for name in (sequence, again)]
        one, other = engine.forward([row(name, [9], (), "last") for name in forks])
        assert np.abs(one - other).max() < 2e-3
        engine.close()


def test_a_window_halves_how_many_sequences_there_may_be():
    with pytest.raises(ParameterError, match="at most 127 rows"):
        open_engine("gemma3", max_batch=128)
    engine = open_engine("gemma3", max_batch=127, cached_sequences=100)
    assert engine.capabilities.max_sequences == 127
    opened = [engine.open_sequence() for _ in range(127)]
    prompts = [PROMPT[at : at + 3] for at in range(127)]
    rows = [row(*parts, (), "last") for parts in zip(opened, prompts, strict=True)]
    found = [logits[0].copy() for logits in engine.forward(rows)]
    for at in (0, 63, 126):
        engine.close_sequence(opened[at])
        expected = logits_of(engine, prompts[at])[-1]
        assert np.abs(found[at] - expected).max() < 2e-3
    engine.close()
