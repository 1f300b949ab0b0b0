"""Mixed batches: every row as if it were alone, whatever its mates and whatever came before."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.adapter import Adapter, Delta, Magnitude, Site
from lorakit.base.folder import Base
from lorakit.errors import CapabilityError, EngineError, MismatchError, ParameterError
from onnx_cases import logits_of, open_engine, random_adapter, row, truth_adapter, truth_base

PROMPTS = [np.arange(4 + 7 * i, 14 + 9 * i) for i in range(6)]


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def engine():
    opened = open_engine(truth_base("gemma3"))
    yield opened
    opened.close()


@pytest.fixture
def handles(engine):
    names = ("plain", "plain_b", "rslora", "embed_tied", "embed_only", "layers")
    attached = [engine.attach(engine.prepare(truth_adapter("gemma3", name))) for name in names]
    yield attached
    for handle in attached:
        engine.detach(handle)


def mixed_sets(handles):
    a, b, c, tied, looked_up, few = handles
    return [
        ((a, 1.0),),
        (),
        ((b, 0.5), (c, -0.3)),
        ((tied, 0.8),),
        ((looked_up, 1.0), (a, 0.25), (few, 2.0)),
        ((c, 0.0),),
    ]


def decode(engine, prompts, sets, steps=4):
    """Prefill each row, then greedy steps of all together; logits [steps, rows, vocabulary]."""
    sequences = [engine.open_sequence() for _ in prompts]
    rows = [row(s, p, held, "last") for s, p, held in zip(sequences, prompts, sets, strict=True)]
    collected = []
    for _ in range(steps):
        logits = np.array([result[-1] for result in engine.forward(rows)])
        collected.append(logits)
        rows = [
            row(s, [int(best)], held, "last")
            for s, best, held in zip(sequences, logits.argmax(1), sets, strict=True)
        ]
    for sequence in sequences:
        engine.close_sequence(sequence)
    return np.array(collected)


def test_mixed_batch_equals_separate_runs(engine, handles):
    sets = mixed_sets(handles)
    together = decode(engine, PROMPTS, sets)
    for index, (prompt, held) in enumerate(zip(PROMPTS, sets, strict=True)):
        alone = decode(engine, [prompt], [held])
        assert relative(together[:, index], alone[:, 0]) < 2e-6


def test_result_does_not_depend_on_batch_mates(engine, handles):
    """To the bit, in batches of the same size."""
    sets = mixed_sets(handles)
    first = decode(engine, PROMPTS, sets)
    order = [0, 5, 4, 3, 2, 1]
    sets_of_mates = [sets[0], *([((handles[2], 5.0),)] * 5)]
    second = decode(engine, [PROMPTS[i] for i in order], sets_of_mates)
    np.testing.assert_array_equal(first[:, 0], second[:, 0])


def test_scale_zero_is_the_base_exactly(engine, handles):
    ids = PROMPTS[5]
    np.testing.assert_array_equal(
        logits_of(engine, ids, ((handles[0], 0.0), (handles[3], 0.0))), logits_of(engine, ids)
    )
    mixed = decode(engine, PROMPTS[:2], [((handles[0], 0.0),), ((handles[1], 1.0),)])
    plain = decode(engine, PROMPTS[:2], [(), ((handles[1], 1.0),)])
    np.testing.assert_array_equal(mixed[:, 0], plain[:, 0])


def test_any_order_of_changes_ends_at_the_same_numbers(engine, handles):
    """Apply, rescale, remove and mix at random; a fixed set in between gives the same bits."""
    rng = np.random.default_rng(5)
    held, ids = ((handles[0], 0.7), (handles[3], 0.2)), PROMPTS[3]
    expected = logits_of(engine, ids, held)
    batch = decode(engine, PROMPTS[:3], [held, (), ((handles[1], 1.0),)])
    for _ in range(12):
        count = int(rng.integers(1, 7))
        sets = [
            tuple(
                (int(h), float(rng.choice([-1.0, 0.0, 0.3, 2.0])))
                for h in rng.choice(handles, rng.integers(0, 4), replace=False)
            )
            for _ in range(count)
        ]
        decode(engine, PROMPTS[:count], sets, steps=2)
        np.testing.assert_array_equal(logits_of(engine, ids, held), expected)
        again = decode(engine, PROMPTS[:3], [held, (), ((handles[1], 1.0),)])
        np.testing.assert_allclose(again, batch, rtol=0, atol=2e-6)


def test_rows_are_written_only_when_they_change(engine, handles, monkeypatch):
    from lorakit.engines.onnx.lora_inputs import Slab

    writes = []
    original = Slab._write_row

    def recorded(self, row, held, attached, scales_only):
        writes.append((row, scales_only))
        original(self, row, held, attached, scales_only)

    monkeypatch.setattr(Slab, "_write_row", recorded)
    sequences = [engine.open_sequence() for _ in range(3)]

    def step(*scales):
        rows = [
            row(s, [9], ((h, scale),), "last")
            for s, h, scale in zip(sequences, handles, scales, strict=False)
        ]
        engine.forward(rows)
        result = sorted(writes)
        writes.clear()
        return result

    assert step(1.0, 1.0, 1.0) == [(0, False), (1, False), (2, False)]
    assert step(1.0, 1.0, 1.0) == []
    assert step(1.0, 0.5, 1.0) == [(1, True)]
    assert step(0.0, 0.5, 1.0) == [(0, False)]
    engine.close_sequence(sequences.pop(0))  # the others stay where they are
    rows = [
        row(s, [9], ((h, scale),), "last")
        for s, h, scale in zip(sequences, handles[1:], (0.5, 1.0), strict=False)
    ]
    engine.forward(rows)
    assert writes == []
    for sequence in sequences:
        engine.close_sequence(sequence)


def test_a_row_half_written_is_written_again(engine, handles, monkeypatch):
    from lorakit.engines.onnx import lora_inputs as rows_module

    sets = [((handles[0], 1.0),), ((handles[1], 1.0),)]
    expected = decode(engine, PROMPTS[:2], [(), sets[1]], steps=1)
    decode(engine, PROMPTS[:2], sets, steps=1)
    multiply, calls = np.multiply, []

    def fails(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 9:
            raise MemoryError("no luck")
        return multiply(*arguments, **keywords)

    monkeypatch.setattr(rows_module.np, "multiply", fails)
    with pytest.raises(EngineError, match="no luck"):
        decode(engine, PROMPTS[:2], [((handles[2], 1.0),), sets[1]], steps=1)
    monkeypatch.undo()
    np.testing.assert_array_equal(decode(engine, PROMPTS[:2], [(), sets[1]], steps=1), expected)


def test_detach_frees_the_rows(engine, handles):
    extra = engine.attach(engine.prepare(truth_adapter("gemma3", "plain")))
    decode(engine, PROMPTS[:2], [((extra, 1.0),), ()])
    logits_of(engine, PROMPTS[0], ((extra, 1.0),))
    engine.detach(extra)
    slabs = engine._slabs
    assert not any(slab.holds(extra) for slab in [slabs._mixed, *slabs._single])
    with pytest.raises(EngineError, match="no adapter is attached"):
        logits_of(engine, [5], ((extra, 1.0),))
    assert engine.attach(engine.prepare(truth_adapter("gemma3", "plain"))) != extra


def test_ranks_may_differ_and_change(engine):
    """Rows are padded to the largest rank; a bigger one may come and go."""
    base = Base.open(truth_base("gemma3"))
    small, large = (
        engine.attach(engine.prepare(random_adapter(base, seed, rank)))
        for seed, rank in ((1, 2), (2, 40))
    )
    alone = decode(engine, PROMPTS[:1], [((small, 1.0),)])
    for sets in ([((small, 1.0),), ()], [((small, 1.0),), ((large, 1.0),)]):
        assert relative(decode(engine, PROMPTS[:2], sets)[:, 0], alone[:, 0]) < 2e-6
    assert relative(decode(engine, PROMPTS[:2], [((small, 1.0),), ()])[:, 0], alone[:, 0]) < 2e-6
    for handle in (small, large):
        engine.detach(handle)


def test_refuses_what_the_graph_cannot_do(engine):
    """A head with a magnitude for each of its inputs, as PEFT's of a tied embedding."""
    adapter = truth_adapter("gemma3", "embed_tied")
    (delta,) = (d for d in adapter.deltas if d.site is Site.BOTH)
    ones = Magnitude(module=delta.module, value=np.ones(64, np.float32))
    with pytest.raises(CapabilityError, match="cannot apply") as caught:
        engine.attach(engine.prepare(dataclasses.replace(adapter, magnitudes=(ones,))))
    assert caught.value.items == (f"{delta.module}: DoRA of what the head reads",)
    assert 'mode="merge"' in caught.value.hint
    assert "run --merge" in caught.value.hint


def test_refuses_an_adapter_of_another_base(engine):
    with pytest.raises(MismatchError):
        engine.attach(engine.prepare(truth_adapter("llama", "plain")))


def test_refuses_bad_rows_and_changes_nothing(engine, handles):
    sequence = engine.open_sequence()
    engine.forward([row(sequence, [5, 6, 7])])
    bad = [
        (EngineError, [row(sequence, [5]), row(sequence, [6])]),
        (EngineError, [row(sequence, [5], ((999, 1.0),))]),
        (EngineError, [row(999999, [5])]),
        (ParameterError, [row(sequence, [5], ((handles[0], float("nan")),))]),
        (ParameterError, [row(sequence, [512])]),
        (ParameterError, [row(sequence, [-1])]),
        (ParameterError, [row(sequence, [])]),
    ]
    for error, rows in bad:
        with pytest.raises(error):
            engine.forward(rows)
    assert engine.length(sequence) == 3
    engine.close_sequence(sequence)


def test_every_site_of_a_tied_matrix(tmp_path):
    """Both uses, and each use alone, in one adapter: they add up, each where it acts."""
    rng = np.random.default_rng(8)
    base = Base.open(truth_base("gemma3"))

    def delta(module, site, n_in, n_out):
        a, b = rng.standard_normal((3, n_in)), rng.standard_normal((n_out, 3)) * 0.05
        return Delta(module=module, a=a.astype("f4"), b=b.astype("f4"), scale=0.5, site=site)

    deltas = (
        delta("model.embed_tokens", Site.BOTH, 512, 64),
        delta("model.embed_tokens", Site.INPUT, 512, 64),
        delta("lm_head", Site.LINEAR, 64, 512),
    )
    change = {d.site: 0.5 * d.b @ d.a for d in deltas}
    weights = {name: np.array(tensor, "f4") for name, tensor in base.tensors.items()}
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding + change[Site.LINEAR]
    weights["lm_head.weight"] += change[Site.BOTH].T
    weights["model.embed_tokens.weight"] = embedding + (change[Site.BOTH] + change[Site.INPUT]).T
    folder = tmp_path / "untied"
    folder.mkdir()
    config = dict(base.config) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    adapted, merged = open_engine(truth_base("gemma3")), open_engine(folder)
    handle = adapted.attach(adapted.prepare(Adapter(deltas=deltas)))
    np.testing.assert_allclose(
        logits_of(adapted, PROMPTS[4], ((handle, 1.0),)),
        logits_of(merged, PROMPTS[4]),
        rtol=0,
        atol=2e-5,
    )
    adapted.close()
    merged.close()


def test_half_precision_adapters_are_applied_in_float32(engine):
    base = Base.open(truth_base("gemma3"))
    wide = random_adapter(base, 3)
    half = Adapter(
        deltas=tuple(
            Delta(module=d.module, a=d.a.astype(np.float16), b=d.b.astype(np.float16), scale=0.5)
            for d in wide.deltas
        )
    )
    widened = Adapter(
        deltas=tuple(
            Delta(module=d.module, a=d.a.astype("f4"), b=d.b.astype("f4"), scale=0.5)
            for d in half.deltas
        )
    )
    one, other = engine.attach(engine.prepare(half)), engine.attach(engine.prepare(widened))
    np.testing.assert_array_equal(
        logits_of(engine, PROMPTS[1], ((one, 1.0),)), logits_of(engine, PROMPTS[1], ((other, 1.0),))
    )
    for handle in (one, other):
        engine.detach(handle)
