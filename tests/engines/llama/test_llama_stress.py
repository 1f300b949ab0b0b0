"""Eight threads do everything at once, and adapters come and go a thousand times.

LORAKIT_STRESS_ROUNDS=20 makes the first one last longer.
"""

import os
import sys

import pytest
from llama_cases import logits_of, open_engine, truth_adapter
from stress import ROUND, THREADS, Stress, resident

from lorakit.adapter import Adapter

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
SLACK = 60 << 20  # bytes: contexts grow and shrink with the load


@linux
def test_eight_threads_at_once():
    rounds = int(os.environ.get("LORAKIT_STRESS_ROUNDS", "1"))
    stress = Stress(seed=rounds)
    before = resident()
    for number in range(rounds):
        stress.run()
        assert stress.surprises == []
        assert sum(stress.counts.values()) == (number + 1) * THREADS * ROUND
    assert max(stress.resident[-2:]) - before < SLACK
    stress.close()


@linux
def test_a_thousand_loads_and_unloads_leak_no_memory():
    engine = open_engine("llama", max_batch=2, cached_sequences=2, contexts=2)
    adapters: list[Adapter] = [truth_adapter("llama", n) for n in ("plain", "plain_b", "rslora")]

    def cycles(count: int) -> None:
        for number in range(count):
            handle = engine.attach(engine.prepare(adapters[number % 3]))
            if number % 5 == 0:
                logits_of(engine, [5, 6, 7], ((handle, 0.5),))
            engine.detach(handle)

    cycles(100)
    before = resident()
    cycles(1000)
    assert resident() - before < 4 << 20
    assert not engine._adapters
    engine.close()


@linux
def test_opening_and_closing_models_leaks_no_memory():
    def cycles(count: int) -> None:
        for _ in range(count):
            engine = open_engine("llama", max_batch=2, cached_sequences=2)
            handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
            logits_of(engine, [5, 6, 7], ((handle, 1.0),))
            engine.close()

    cycles(5)
    before = resident()
    cycles(60)
    assert resident() - before < 12 << 20
