"""Quantised weights: how far from float32, and the same promises about rows."""

import numpy as np
import pytest

from onnx_cases import logits_of, open_engine, row, truth_adapter, truth_base

IDS = np.random.default_rng(4).integers(4, 508, 40)
# measured on the truth bases, whose random weights are the hardest case: fp16 0.001-0.003, int8
# 0.03-0.10, int4 0.27-0.66, as a part of the spread of the logits
BOUNDS = {"fp16": 5e-3, "int8": 0.2, "int4": 0.8}


def error(found, expected):
    return float(np.sqrt(((found - expected) ** 2).mean()) / expected.std())


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def exact(request):
    engine = open_engine(truth_base(request.param))
    adapter = truth_adapter(request.param, "plain")
    handle = engine.attach(engine.prepare(adapter))
    yield (
        request.param,
        adapter,
        logits_of(engine, IDS),
        logits_of(engine, IDS, ((handle, 1.0),)),
    )
    engine.close()


@pytest.fixture(params=sorted(BOUNDS))
def quantized(request, exact):
    engine = open_engine(truth_base(exact[0]), quantize=request.param)
    yield request.param, engine
    engine.close()


def test_error_is_bounded(exact, quantized):
    _, adapter, base_logits, adapted_logits = exact
    mode, engine = quantized
    assert error(logits_of(engine, IDS), base_logits) < BOUNDS[mode]
    handle = engine.attach(engine.prepare(adapter))
    assert error(logits_of(engine, IDS, ((handle, 1.0),)), adapted_logits) < BOUNDS[mode]


def test_small_batches_have_a_head_of_their_own(exact):
    name, _, base_logits, _ = exact
    engine = open_engine(truth_base(name), quantize="int8", max_batch=2)
    assert error(logits_of(engine, IDS), base_logits) < BOUNDS["int8"]
    engine.close()


def test_unsigned_weights_give_the_same(exact, monkeypatch):
    """The form for CPUs without exact signed products: the same integers, so the same logits."""
    name, *_ = exact
    signed = open_engine(truth_base(name), quantize="int8")
    monkeypatch.setattr("lorakit.engines.onnx.graph_choice.signed_kernel_exact", lambda: False)
    unsigned = open_engine(truth_base(name), quantize="int8")
    np.testing.assert_allclose(
        logits_of(signed, IDS), logits_of(unsigned, IDS), rtol=1e-5, atol=1e-5
    )
    signed.close()
    unsigned.close()


def test_chunks_and_steps_agree(quantized):
    mode, engine = quantized
    whole = logits_of(engine, IDS)
    for chunk in (1, 9):
        assert error(logits_of(engine, IDS, chunk=chunk), whole) < 0.2 * BOUNDS[mode]


def test_result_does_not_depend_on_batch_mates(exact, quantized):
    """One mate's huge activations must not coarsen another row's scale."""
    _, adapter, *_ = exact
    _, engine = quantized
    handle = engine.attach(engine.prepare(adapter))
    results = []
    for mates in ((), ((handle, 30.0),)):
        sequences = [engine.open_sequence() for _ in range(4)]
        engine.forward([row(s, IDS[:8]) for s in sequences])
        step = [row(s, [7], mates if at else ()) for at, s in enumerate(sequences)]
        results.append(engine.forward(step)[0].copy())
        for sequence in sequences:
            engine.close_sequence(sequence)
    np.testing.assert_array_equal(*results)


def test_no_logits_at_all(quantized):
    _, engine = quantized
    sequence = engine.open_sequence()
    assert engine.forward([row(sequence, IDS, (), "none")])[0].shape == (0, 512)
    assert engine.forward([row(sequence, IDS[:1], (), "none")])[0].shape == (0, 512)
    engine.close_sequence(sequence)
