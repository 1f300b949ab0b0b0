"""Contexts: sequences that move, grow, fork and change their adapters equal cold runs."""

import random

import numpy as np
import pytest
from llama_cases import logits_of, open_engine, row, truth_adapter

from lorakit.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    EngineError,
    ParameterError,
)


@pytest.fixture(scope="module")
def engine():
    engine = open_engine("llama", max_batch=4, cached_sequences=4)
    yield engine
    engine.close()


def cold(engine, history):
    """The last logits of (token, adapters) pairs on a fresh sequence."""
    sequence, start, found = engine.open_sequence(), 0, None
    while start < len(history):
        chosen = history[start][1]
        end = next((i for i in range(start, len(history)) if history[i][1] != chosen), len(history))
        tokens = [token for token, _ in history[start:end]]
        found = engine.forward([row(sequence, tokens, chosen, "last")])[0].copy()
        start = end
    engine.close_sequence(sequence)
    return found


@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_any_interleaving_equals_cold_runs(contexts):
    engine = open_engine("llama", max_batch=4, cached_sequences=4, contexts=contexts)
    handles = [
        engine.attach(engine.prepare(truth_adapter("llama", n)))
        for n in ("plain", "plain_b", "rslora")
    ]
    rng, histories = random.Random(contexts), {}
    for _ in range(40):
        act = rng.random()
        if (act < 0.2 or not histories) and len(histories) < 6:
            histories[engine.open_sequence()] = []
            continue
        name = rng.choice(list(histories))
        cut = rng.randint(0, len(histories[name]))
        if act < 0.3 and len(histories) < 6:
            histories[engine.fork(name, cut)] = histories[name][:cut]
        elif act < 0.4:
            engine.truncate(name, cut)
            del histories[name][cut:]
        elif act < 0.45:
            engine.close_sequence(name)
            del histories[name]
        else:
            rows = []
            for name in rng.sample(list(histories), rng.randint(1, min(4, len(histories)))):
                chosen = tuple(
                    (h, rng.choice([0.5, 1.0, -0.5])) for h in handles if rng.random() < 0.4
                )
                tokens = [rng.randrange(4, 508) for _ in range(rng.choice([1, 1, 5, 40]))]
                if len(histories[name]) + len(tokens) <= 250:
                    histories[name] += [(token, chosen) for token in tokens]
                    rows.append(row(name, tokens, chosen, "last"))
            found = [logits.copy() for logits in engine.forward(rows)]
            for at, logits in zip(rows, found, strict=True):
                assert np.abs(logits - cold(engine, histories[at.sequence])).max() < 2e-4
        assert all(engine.length(name) == len(held) for name, held in histories.items())
    engine.close()


def test_only_the_wanted_logits_are_returned(engine):
    ids, sequence = list(range(5, 60)), engine.open_sequence()
    every = logits_of(engine, ids)
    last, none = engine.fork(sequence, 0), engine.fork(sequence, 0)
    found = engine.forward([row(last, ids, (), "last"), row(none, ids[:3], (), "none")])
    assert [len(logits) for logits in found] == [1, 0]
    assert np.abs(found[0][0] - every[-1]).max() < 1e-4
    for name in (sequence, last, none):
        engine.close_sequence(name)


def test_a_refused_step_leaves_everything_as_it_was(engine):
    sequence = engine.open_sequence()
    engine.forward([row(sequence, [5, 6, 7])])
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    bad = [
        (row(sequence, []), ParameterError),
        (row(sequence, [512]), ParameterError),
        (row(sequence, [-1]), ParameterError),
        (row(sequence, [5] * 254), ContextFullError),
        (row(sequence, [5], ((handle, float("nan")),)), ParameterError),
        (row(sequence, [5], ((handle, float("inf")),)), ParameterError),
        (row(sequence, [5], ((handle + 1000, 1.0),)), EngineError),
    ]
    for wrong, kind in bad:
        with pytest.raises(kind):
            engine.forward([wrong])
        assert engine.length(sequence) == 3
    with pytest.raises(EngineError, match="twice"):
        engine.forward([row(sequence, [5]), row(sequence, [6])])
    engine.detach(handle)
    engine.close_sequence(sequence)


def test_an_interrupted_step_leaves_no_trace(engine, monkeypatch):
    sequence = engine.open_sequence()
    engine.forward([row(sequence, [5, 6, 7])])
    monkeypatch.setattr(engine._abort, "clear", lambda: None)
    engine.interrupt()
    with pytest.raises(CancelledError):
        engine.forward([row(sequence, list(range(8, 40)))])
    assert engine.length(sequence) == 3
    monkeypatch.undo()
    found = engine.forward([row(sequence, [9], (), "last")])[0]
    assert np.abs(found - logits_of(engine, [5, 6, 7, 9])[-1]).max() < 1e-4
    engine.close_sequence(sequence)


def test_saved_kv_continues_in_another_engine(engine):
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    chosen, sequence = ((handle, 1.0),), engine.open_sequence()
    engine.forward([row(sequence, list(range(5, 25)), chosen, "none")])
    state = engine.save_sequence(sequence)
    expected = engine.forward([row(sequence, [30], chosen, "last")])[0].copy()
    other = open_engine("llama")
    again = other.attach(other.prepare(truth_adapter("llama", "plain")))
    loaded = other.load_sequence(state, 20)
    found = other.forward([row(loaded, [30], ((again, 1.0),), "last")])[0]
    assert np.abs(found - expected).max() < 1e-5
    for broken in (state[:-7], state[: len(state) // 2], b"nothing", b""):
        with pytest.raises(EngineError):
            other.load_sequence(broken, 20)
    other.close()
    engine.detach(handle)
    engine.close_sequence(sequence)


def test_adapters_come_and_go_while_others_are_active(engine):
    """A freed adapter's address may be reused for the next one; the old one must not act."""
    ids, keep = list(range(5, 20)), engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    expected = logits_of(engine, ids, ((keep, 1.0),))
    other = truth_adapter("llama", "plain_b")
    for _ in range(50):
        handle = engine.attach(engine.prepare(other))
        logits_of(engine, ids, ((handle, 1.0),))
        engine.detach(handle)
        with pytest.raises(EngineError, match="no adapter"):
            logits_of(engine, ids, ((handle, 1.0),))
    np.testing.assert_array_equal(logits_of(engine, ids, ((keep, 1.0),)), expected)
    engine.detach(keep)


def test_two_models_at_once_and_use_after_close(engine):
    other = open_engine("gemma3")
    handle = other.attach(other.prepare(truth_adapter("gemma3", "plain")))
    before = logits_of(engine, [5, 6, 7])
    logits_of(other, [5, 6, 7], ((handle, 1.0),))
    np.testing.assert_array_equal(logits_of(engine, [5, 6, 7]), before)
    other.close()
    other.close()
    for use in (other.open_sequence, lambda: other.forward([]), lambda: other.detach(handle)):
        with pytest.raises(ClosedError):
            use()
    np.testing.assert_array_equal(logits_of(engine, [5, 6, 7]), before)


@pytest.mark.parametrize("contexts", [1, 2, 8])
def test_a_step_may_begin_with_more_sets_than_contexts(contexts):
    engine = open_engine("llama", contexts=contexts, max_batch=3, cached_sequences=1)
    plain = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    sets = [((plain, 0.5 * n),) for n in (1, 2, 3)]
    prompts = [[5 + (n + at) % 200 for at in range(200)] for n in range(3)]
    opened = [engine.open_sequence() for _ in prompts]
    rows = [row(*parts) for parts in zip(opened, prompts, sets, strict=True)]
    found = [logits[-1].copy() for logits in engine.forward(rows)]  # the contexts grow meanwhile
    for sequence in opened:
        engine.close_sequence(sequence)
    for logits, prompt, held in zip(found, prompts, sets, strict=True):
        np.testing.assert_allclose(logits, logits_of(engine, prompt, held)[-1], atol=1e-4)
    engine.close()


def all_of(engine, parts, wanted):
    """Logits of the last of some rows of one sequence, and its length."""
    sequence = engine.open_sequence()
    for part in parts[:-1]:
        engine.forward([row(sequence, part, (), "none")])
    found = engine.forward([row(sequence, parts[-1], (), wanted)])[0].copy()
    length = engine.length(sequence)
    engine.close_sequence(sequence)
    return found, length


@pytest.mark.parametrize("count", [2, 6, 7])
def test_positions_of_a_short_row_are_rows_of_all(engine, count):
    """Up to six tokens that follow others are decoded one by one, where the last alone counts."""
    tokens = list(range(20, 20 + count))
    every, _ = all_of(engine, [[5, 6, 7], tokens], "all")
    for wanted in ("last", "none", (0,), (count - 1,), (0, count - 1)):
        found, length = all_of(engine, [[5, 6, 7], tokens], wanted)
        at = {"last": [count - 1], "none": []}.get(wanted, wanted)
        np.testing.assert_allclose(found, every[list(at)], rtol=0, atol=2e-3)
        assert length == 3 + count


def test_rows_of_different_lengths_equal_rows_alone(engine):
    parts = [([3, 4], [9]), ([5, 6], [7, 8, 9]), ([7], list(range(12))), ([8, 9], [1, 2])]
    sequences = [engine.open_sequence() for _ in parts]
    engine.forward([row(s, a, (), "none") for s, (a, _) in zip(sequences, parts, strict=True)])
    rows = [row(s, b, (), "last") for s, (_, b) in zip(sequences, parts, strict=True)]
    found = [logits.copy() for logits in engine.forward(rows)]
    assert [engine.length(s) for s in sequences] == [len(a) + len(b) for a, b in parts]
    for sequence in sequences:
        engine.close_sequence(sequence)
    for logits, part in zip(found, parts, strict=True):
        np.testing.assert_allclose(logits, all_of(engine, part, "last")[0], rtol=0, atol=2e-3)
