"""Sequences: chunks, forks, truncation, slots, growth, and failure in the middle."""

import time

import numpy as np
import pytest

from lorakit.base.folder import Base
from lorakit.engines.onnx import plan
from lorakit.engines.onnx.device import CPU
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.kv_cache import KVCache
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.ort import Step
from lorakit.errors import ClosedError, ContextFullError, EngineError, ParameterError
from onnx_cases import logits_of, open_engine, row, truth_adapter, truth_base

IDS = np.random.default_rng(3).integers(4, 508, 60)


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def engine(request):
    opened = open_engine(truth_base(request.param), max_batch=4, cached_sequences=2)
    yield opened
    opened.close()


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 59])
def test_chunked_prefill_equals_one_shot(engine, chunk):
    np.testing.assert_allclose(
        logits_of(engine, IDS, chunk=chunk), logits_of(engine, IDS), rtol=0, atol=2e-5
    )


def test_long_rows_are_chunked_inside(engine, monkeypatch):
    whole = logits_of(engine, IDS)
    monkeypatch.setattr(plan, "MAX_NEW", 13)
    np.testing.assert_allclose(logits_of(engine, IDS), whole, rtol=0, atol=2e-5)
    sequence = engine.open_sequence()
    last = engine.forward([row(sequence, IDS, (), "last")])[0]
    np.testing.assert_allclose(last, whole[-1:], rtol=0, atol=2e-5)
    engine.close_sequence(sequence)


def test_a_chunk_of_one_token_leaves_other_rows_alone(engine, monkeypatch):
    expected = logits_of(engine, IDS[:14])[-1], logits_of(engine, [9])[-1]
    monkeypatch.setattr(plan, "MAX_NEW", 13)
    one, two = engine.open_sequence(), engine.open_sequence()
    rows = [row(one, IDS[:14], (), "last"), row(two, [9], (), "last")]
    for order in (1, -1):
        results = engine.forward(rows[::order])[::order]
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(found[-1], wanted, rtol=0, atol=2e-5)
        for sequence in (one, two):
            engine.truncate(sequence, 0)
    for sequence in (one, two):
        engine.close_sequence(sequence)


def test_logits_only_where_asked(engine):
    sequences = [engine.open_sequence() for _ in range(3)]
    results = engine.forward(
        [
            row(sequences[0], IDS[:5], (), "none"),
            row(sequences[1], IDS[:5], (), "last"),
            row(sequences[2], IDS[:1], (), "none"),
        ]
    )
    assert [r.shape for r in results] == [(0, 512), (1, 512), (0, 512)]
    assert [engine.length(s) for s in sequences] == [5, 5, 1]
    for sequence in sequences:
        engine.close_sequence(sequence)


def test_fork_and_truncate(engine):
    expected = logits_of(engine, IDS)
    sequence = engine.open_sequence()
    engine.forward([row(sequence, IDS[:30])])
    copy = engine.fork(sequence, 20)
    other = IDS[::-1][:10]
    engine.forward([row(copy, other)])  # the copy goes its own way
    np.testing.assert_allclose(
        engine.forward([row(sequence, IDS[30:])])[0], expected[30:], rtol=0, atol=2e-5
    )
    engine.truncate(copy, 20)
    np.testing.assert_allclose(
        engine.forward([row(copy, IDS[20:])])[0], expected[20:], rtol=0, atol=2e-5
    )
    engine.truncate(copy, 0)
    np.testing.assert_allclose(engine.forward([row(copy, IDS)])[0], expected, rtol=0, atol=2e-5)
    for bad in (-1, 61):
        with pytest.raises(EngineError):
            engine.truncate(copy, bad)
        with pytest.raises(EngineError):
            engine.fork(copy, bad)
    for opened in (sequence, copy):
        engine.close_sequence(opened)


def test_members_come_and_go(engine):
    """Random membership, prefills among decodes: every sequence as if it ran alone."""
    rng = np.random.default_rng(11)
    texts = [np.roll(IDS, 7 * i) for i in range(6)]
    expected = [logits_of(engine, text) for text in texts]
    sequences = [engine.open_sequence() for _ in texts]
    at = [0] * len(texts)
    while min(at) < len(IDS):
        chosen = rng.permutation(len(texts))[: rng.integers(1, 5)]
        chosen = [int(i) for i in chosen if at[i] < len(IDS)]
        counts = [1 if rng.random() < 0.7 else int(min(9, len(IDS) - at[i])) for i in chosen]
        rows = [
            row(sequences[i], texts[i][at[i] : at[i] + n])
            for i, n in zip(chosen, counts, strict=True)
        ]
        results = engine.forward(rows)
        for i, n, found in zip(chosen, counts, results, strict=True):
            np.testing.assert_allclose(found, expected[i][at[i] : at[i] + n], rtol=0, atol=2e-5)
            at[i] += n
    for sequence in sequences:
        engine.close_sequence(sequence)


def test_capacity_grows_and_is_given_back(monkeypatch):
    monkeypatch.setattr("lorakit.engines.onnx.kv_cache.FIRST_CAPACITY", 16)
    engine = open_engine(truth_base("gemma3"))
    one = engine.open_sequence()
    parts = []
    for begin in range(0, 60, 6):
        parts.append(engine.forward([row(one, IDS[begin : begin + 6])])[0].copy())
    assert engine._kv.capacity == 64
    found = np.concatenate(parts)
    engine.close_sequence(one)
    assert engine._kv.capacity < 64
    np.testing.assert_allclose(found, logits_of(engine, IDS), rtol=0, atol=2e-5)
    engine.close()


def test_context_full_leaves_everything_as_it_was():
    engine = open_engine(truth_base("gemma3"), context=40)
    one, two = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(one, IDS[:39]), row(two, IDS[:5])])
    with pytest.raises(ContextFullError):
        engine.forward([row(two, IDS[5:7]), row(one, IDS[39:41])])
    assert (engine.length(one), engine.length(two)) == (39, 5)
    engine.forward([row(one, IDS[39:40])])
    assert engine.length(one) == 40
    engine.close()


def test_a_failed_step_leaves_lengths_as_they_were(engine, monkeypatch):
    expected = logits_of(engine, IDS)
    one, two = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(one, IDS[:10]), row(two, IDS[:10])])
    run, calls = Step.run, []

    def fails_second(self):
        calls.append(self)
        if len(calls) == 2:
            raise EngineError("no luck")
        run(self)

    monkeypatch.setattr(Step, "run", fails_second)
    with pytest.raises(EngineError, match="no luck"):
        engine.forward([row(one, IDS[10:11]), row(two, IDS[10:20])])
    monkeypatch.undo()
    assert (engine.length(one), engine.length(two)) == (10, 10)
    for sequence in (one, two):
        np.testing.assert_allclose(
            engine.forward([row(sequence, IDS[10:])])[0], expected[10:], rtol=0, atol=2e-5
        )
        engine.close_sequence(sequence)


def test_native_failures_are_engine_errors(engine, monkeypatch):
    sequence = engine.open_sequence()
    monkeypatch.setattr(engine._session, "run_with_iobinding", lambda io: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # not onnxruntime's: a bug of ours is not dressed up
        engine.forward([row(sequence, IDS[:3])])
    monkeypatch.undo()
    step = Step(engine._session, CPU, batch=1, new=3, hidden=engine._base.decoder.hidden)
    with pytest.raises(EngineError, match="failed while"):
        step.run()  # unbound inputs
    engine.close_sequence(sequence)


def test_too_many_rows_or_sequences(engine):
    opened = [engine.open_sequence() for _ in range(6)]
    with pytest.raises(EngineError, match="sequences are open"):
        engine.open_sequence()
    with pytest.raises(EngineError, match="max_batch"):
        engine.forward([row(s, [5]) for s in opened[:5]])
    assert engine.forward([]) == []
    for sequence in opened:
        engine.close_sequence(sequence)
    with pytest.raises(EngineError, match="no open sequence"):
        engine.length(opened[0])


def test_an_idle_engine_burns_no_cpu():
    engine = OnnxEngine.open(Base.open(truth_base("llama")), OnnxOptions(threads=2))
    logits_of(engine, IDS)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    engine.close()


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"context": 0}, {"cached_sequences": -1}, {"quantize": "int3"}]
)
def test_options_out_of_range(options):
    with pytest.raises(ParameterError):
        open_engine(truth_base("llama"), **options)


def test_use_after_close():
    engine = open_engine(truth_base("llama"))
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    sequence = engine.open_sequence()
    engine.forward([row(sequence, IDS[:4], ((handle, 1.0),))])
    engine.close()
    engine.close()
    calls = [
        lambda: engine.forward([row(sequence, [5])]),
        engine.open_sequence,
        lambda: engine.length(sequence),
        lambda: engine.attach(engine.prepare(truth_adapter("llama", "plain"))),
        lambda: engine.detach(handle),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()


def test_arrange_moves_only_what_it_must():
    cache = KVCache(Base.open(truth_base("gemma3")).decoder, CPU.buffer, slots=6, context=64)
    sequences = [cache.open() for _ in range(5)]
    cache.reserve(4)
    for sequence in sequences:
        for buffer in cache.buffers:
            buffer.write(cache._slot[sequence], np.full((buffer.shape[1], 4, 1), sequence))
        cache.advance(sequence, 4)
    assert cache.arrange(sequences[1:4]) == (1, [0, 1, 2])  # neighbours already
    before = dict(cache._slot)
    first, order = cache.arrange([sequences[4], sequences[0], sequences[1]])
    moved = [s for s in sequences if cache._slot[s] != before[s]]
    assert len(moved) <= 2
    assert sorted(order) == [0, 1, 2]
    assert {cache._slot[s] for s in (sequences[4], sequences[0], sequences[1])} == set(
        range(first, first + 3)
    )
    for sequence in sequences:
        assert all((b.read(cache._slot[sequence], 4) == sequence).all() for b in cache.buffers)
