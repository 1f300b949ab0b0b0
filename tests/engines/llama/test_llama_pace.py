"""Short decodes use one thread while other programs use the cores, and all threads afterwards."""

import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from llama_cases import logits_of, open_engine, row

from lorakit.engines.llama import native
from lorakit.engines.llama import pace as paces
from lorakit.engines.llama.context import SPLIT
from lorakit.engines.llama.pace import FIRST, LONGEST, SHORT, Pace


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(wall=100.0, own=5.0)
    fake = SimpleNamespace(perf_counter=lambda: now.wall, thread_time=lambda: now.own)
    monkeypatch.setattr(paces, "time", fake)
    return now


def decode(pace, clock, seconds, share):
    threads = pace.threads(1)
    begun = pace.begin()
    clock.wall += seconds
    clock.own += seconds * share
    if threads > 1:
        pace.end(begun)
    return threads


def test_on_free_cores_all_threads_are_used(clock):
    pace = Pace(4)
    assert {decode(pace, clock, 0.01, 0.95) for _ in range(100)} == {4}


def test_on_shared_cores_one_thread_is_used_most_of_the_time(clock):
    pace = Pace(4)
    taken = [decode(pace, clock, 0.03, 0.3) for _ in range(1000)]
    assert taken[:2] == [4, 1]
    assert taken.count(4) < 20
    tried = [at for at, threads in enumerate(taken) if threads == 4]
    pauses = [(after - before) * 0.03 for before, after in itertools.pairwise(tried)]
    assert pauses[0] == pytest.approx(FIRST, abs=0.06)
    assert pauses[-1] == pytest.approx(LONGEST, abs=0.06)


def test_free_cores_are_noticed_again(clock):
    pace = Pace(4)
    for _ in range(300):
        decode(pace, clock, 0.03, 0.3)
    taken = [decode(pace, clock, 0.03, 0.95) for _ in range(300)]
    assert taken.index(4) * 0.03 <= LONGEST + 0.06
    assert set(taken[taken.index(4) :]) == {4}


def test_one_long_wait_among_short_decodes_changes_nothing(clock):
    pace = Pace(2)
    for _ in range(5):
        assert decode(pace, clock, 0.004, 1.0) == 2
    decode(pace, clock, 0.002, 0.1)
    assert pace.threads(1) == 2


def test_a_large_decode_uses_all_threads(clock):
    pace = Pace(2)
    decode(pace, clock, 0.1, 0.1)
    assert (pace.threads(SHORT - 1), pace.threads(SHORT)) == (1, 2)


def test_the_number_of_threads_does_not_change_logits(monkeypatch):
    engine = open_engine("gemma3", max_batch=2)
    engine._pace.most = 2
    both = logits_of(engine, list(range(5, 25))).copy()
    monkeypatch.setattr(Pace, "threads", lambda *_: 1)
    assert (logits_of(engine, list(range(5, 25))) == both).all()
    engine.close()


@pytest.mark.parametrize(
    ("flash", "cells", "rows", "free"),
    [("on", 600, 1, False), ("on", 200, 1, True), ("on", 600, 2, True), ("off", 600, 1, True)],
)
def test_the_number_of_threads_is_fixed_if_it_would_change_logits(
    monkeypatch, flash, cells, rows, free
):
    engine = open_engine("llama", max_batch=4, kv_type="f16", flash_attention=flash)
    asked = []
    monkeypatch.setattr(Pace, "threads", lambda self, tokens: asked.append(tokens) or 1)
    opened = [engine.open_sequence() for _ in range(4)]
    for sequence in opened[: cells // 200]:
        engine.forward([row(sequence, list(range(5, 205)), (), "none")])
    assert (max(context.cells for context in engine._pool) >= SPLIT) == (cells >= SPLIT)
    asked.clear()
    engine.forward([row(sequence, [9], (), "last") for sequence in opened[:rows]])
    assert bool(asked) == free
    engine.close()


CHILD = """
import os, sys
from lorakit.engines.llama.native import llama
llama()
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("KMP_BLOCKTIME"))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "None 0"),
        ({"GOMP_SPINCOUNT": "77", "KMP_BLOCKTIME": "5"}, "77 5"),
        ({"OMP_WAIT_POLICY": "active"}, "None 0"),
    ],
)
def test_the_users_openmp_settings_are_kept_and_ours_are_removed(given, expected):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**environment, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_two_threads_may_load_the_library_at_once(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with native._short_waits():
        assert os.environ["GOMP_SPINCOUNT"] == "2000"
        del os.environ["GOMP_SPINCOUNT"]  # the other thread has ended
    assert "GOMP_SPINCOUNT" not in os.environ
