"""Logits of chosen positions, and of few columns computed on the host: as of the whole graph."""

import dataclasses

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.engines.onnx import few_rows
from lorakit.engines.onnx.few_rows import Blockwise, Held, Plain, Rowwise
from lorakit.engines.onnx.ort import Step
from lorakit.errors import ParameterError
from onnx_cases import DATA, logits_of, open_engine, random_adapter, row, truth_adapter, truth_base

RNG = np.random.default_rng(11)
IDS = RNG.integers(4, 90, 11)
AMONG = np.sort(RNG.choice(512, 60, replace=False))
KINDS = [  # weights, the largest batch, and the head that follows from both
    ("none", 2, Plain),
    ("fp16", 8, Plain),
    ("int8", 2, Blockwise),
    ("int8", 8, Rowwise),
    ("int4", 8, Rowwise),
]


@pytest.fixture(scope="module")
def engines():
    opened = {}

    def engine(base, quantize="none", max_batch=8):
        key = base, quantize, max_batch
        if key not in opened:
            opened[key] = open_engine(base, quantize=quantize, max_batch=max_batch)
        return opened[key]

    yield engine
    for each in opened.values():
        each.close()


def both(engine, tokens, adapters=(), among=AMONG):
    """The last position's logits: of the whole vocabulary, and of few."""
    sequence = engine.open_sequence()
    whole = engine.forward([row(sequence, tokens, adapters, "last")])[0].copy()
    engine.truncate(sequence, 0)
    few = few_of(engine, sequence, tokens, adapters, among)
    engine.close_sequence(sequence)
    return whole, few


def few_of(engine, sequence, tokens, adapters=(), among=AMONG):
    asked = dataclasses.replace(row(sequence, tokens, adapters, "last"), among=among)
    return engine.forward([asked])[0].copy()


def assert_same(engine, whole, few):
    if isinstance(engine._few._form, Rowwise):
        np.testing.assert_array_equal(few, whole[:, AMONG])
    else:
        np.testing.assert_allclose(few, whole[:, AMONG], rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", ["gemma3", "llama"])
@pytest.mark.parametrize(("quantize", "max_batch", "form"), KINDS)
def test_few_columns_are_those_of_the_whole(engines, name, quantize, max_batch, form):
    engine = engines(truth_base(name), quantize, max_batch)
    assert isinstance(engine._few._form, form)
    for tokens in (IDS, IDS[:1], IDS[3:7]):
        assert_same(engine, *both(engine, tokens))


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_codes_of_another_kind_would_be_seen(engines, name, monkeypatch):
    """The broken variants: final states as they are, or not made even."""
    engine = engines(truth_base(name), "int8", 8)
    whole, _ = both(engine, IDS)
    exact, divisors = engine._few._form, engine._few._form.divisors
    assert divisors is not None
    for broken in (Plain(np.float32), Rowwise(None)):
        monkeypatch.setattr(engine._few, "_form", broken)
        monkeypatch.setattr(engine._few, "_held", Held(512, 512))
        _, few = both(engine, IDS)
        assert np.abs(few - whole[:, AMONG]).max() > 1e-3
    monkeypatch.setattr(engine._few, "_form", exact)
    monkeypatch.setattr(engine._few, "_held", Held(512, 512))
    monkeypatch.setattr(few_rows, "evened", lambda x, divisors: x / divisors)
    _, few = both(engine, IDS)
    assert np.abs(few - whole[:, AMONG]).max() > 1e-3


def test_soft_capped(engines):
    engine = engines(DATA / "families" / "gemma3_softcap", "int8")
    among = AMONG[: np.searchsorted(AMONG, engine.capabilities.vocabulary)]
    whole, few = both(engine, IDS, among=among)
    np.testing.assert_array_equal(few, whole[:, among])
    assert np.abs(whole).max() < engine._base.decoder.logit_softcap


def test_a_head_with_a_bias():
    """phi's; ours are all without, so that one is made."""

    class Biased:
        def __init__(self, base):
            shape = dataclasses.replace(base.decoder.modules()["lm_head"], bias=True)
            self.decoder = self
            self.modules = lambda: {"lm_head": shape}
            self.weight = base.weight
            self.tensor = lambda name: np.arange(512, dtype=np.float32)

    base = Base.open(truth_base("llama"))
    x = RNG.standard_normal((2, base.decoder.hidden)).astype(np.float32)
    form = few_rows.HeadForm(name="float32")
    plain = few_rows.FewRows(base, form).logits(x, AMONG)
    biased = few_rows.FewRows(Biased(base), form).logits(x, AMONG)
    np.testing.assert_allclose(biased, plain + AMONG, rtol=0, atol=1e-4)


# Adapters that act on the head.


def dora(base):
    (delta,) = random_adapter(base, 3, modules=["lm_head"]).deltas
    norms = np.linalg.norm(base.weight("lm_head").astype(np.float32), axis=1)
    value = (norms * np.random.default_rng(4).uniform(0.8, 1.3, len(norms))).astype(np.float32)
    return Adapter(deltas=(delta,), magnitudes=(Magnitude(module="lm_head", value=value),))


def biased(base):
    (delta,) = random_adapter(base, 5, modules=["lm_head"]).deltas
    bias = np.linspace(-1, 1, delta.out_features, dtype=np.float32)
    return Adapter(deltas=(dataclasses.replace(delta, bias=bias),))


def tied(base):
    """What the lookup and the head share, with a bias of B, which the head reads."""
    (delta,) = random_adapter(base, 6, modules=["lm_head"]).deltas
    bias = np.linspace(-0.1, 0.1, delta.in_features, dtype=np.float32)
    turned = Delta(
        module=base.decoder.embedding,
        a=delta.b.T,
        b=delta.a.T,
        scale=1.0,
        site=Site.BOTH,
        bias=bias,
    )
    return Adapter(deltas=(turned,))


def replacing(rows):
    def made(base):
        rng, name = np.random.default_rng(7), "lm_head.weight"
        shape = base.tensor(name).shape if rows is None else (len(rows), base.decoder.hidden)
        value = rng.standard_normal(shape, np.float32) * 0.1
        ids = None if rows is None else np.array(rows)
        replacement = Replacement(name=name, value=value, rows=ids, site=Site.OUTPUT)
        return Adapter(replacements=(replacement,))

    return made


HEADS = {
    "low rank": ("llama", lambda base: random_adapter(base, 2, modules=["lm_head"])),
    "DoRA": ("llama", dora),
    "a bias of B": ("llama", biased),
    "the tied matrix": ("gemma3", tied),
    "some rows": ("llama", replacing([3, 17, int(AMONG[5]), 400, int(AMONG[-1])])),
    "rows of which none is asked for": ("llama", replacing([int(AMONG[0]) + 1])),
    "all of it": ("gemma3", replacing(None)),
    "as PEFT writes one": ("gemma3", lambda base: truth_adapter("gemma3", "embed_tied")),
    "trained tokens": ("llama", lambda base: truth_adapter("llama", "trainable_tokens")),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_adapters_on_the_head_count(engines, kind, quantize):
    name, made = HEADS[kind]
    engine = engines(truth_base(name), quantize)
    handle = engine.attach(engine.prepare(made(engine._base)))
    for held in (((handle, 0.7),), ((handle, 1.0),)):
        whole, few = both(engine, IDS, held)
        np.testing.assert_allclose(few, whole[:, AMONG], rtol=0, atol=5e-6)
    if kind != "rows of which none is asked for":
        _, plain = both(engine, IDS)
        assert np.abs(few - plain).max() > 1e-3
    engine.detach(handle)


def test_an_adapter_left_out_would_be_seen(engines, monkeypatch):
    """The broken variant: the base's rows alone."""
    engine = engines(truth_base("llama"))
    handle = engine.attach(engine.prepare(random_adapter(engine._base, 2, modules=["lm_head"])))
    project = engine._vocabulary.project
    monkeypatch.setattr(
        engine._vocabulary,
        "project",
        lambda final, logits, held, among: (
            None if among is not None else project(final, logits, held, among)
        ),
    )
    whole, few = both(engine, IDS, ((handle, 1.0),))
    assert np.abs(few - whole[:, AMONG]).max() > 1e-3
    monkeypatch.undo()
    engine.detach(handle)


# Positions.


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_positions_are_those_of_all(engines, quantize):
    engine = engines(truth_base("gemma3"), quantize)
    every = logits_of(engine, IDS)
    sequence = engine.open_sequence()
    for asked in ((), (0,), (10,), (2, 3, 7), tuple(range(11))):
        found = engine.forward([row(sequence, IDS, logits=asked)])[0]
        assert found.shape == (len(asked), 512)
        np.testing.assert_allclose(found, every[list(asked)], rtol=0, atol=2e-6)
        engine.truncate(sequence, 0)
    engine.close_sequence(sequence)


def test_positions_of_a_row_that_is_run_in_parts(engines, monkeypatch):
    monkeypatch.setattr("lorakit.engines.onnx.plan.MAX_NEW", 4)
    engine = engines(truth_base("gemma3"))
    every = logits_of(engine, IDS)
    sequence = engine.open_sequence()
    found = engine.forward([row(sequence, IDS, logits=(1, 4, 10))])[0]
    np.testing.assert_allclose(found, every[[1, 4, 10]], rtol=0, atol=2e-6)
    engine.truncate(sequence, 0)
    asked = dataclasses.replace(row(sequence, IDS, logits=(5,)), among=AMONG)
    np.testing.assert_allclose(engine.forward([asked])[0], every[[5]][:, AMONG], rtol=0, atol=2e-6)
    engine.close_sequence(sequence)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_rows_of_a_batch_want_what_they_want(engines, quantize):
    """None, all columns, few of them, and several positions; none writes into another's."""
    engine = engines(truth_base("gemma3"), quantize)
    asked = ["last", "none", "few", (0,), "last", (0, 2), "all"]
    sequences = [engine.open_sequence() for _ in asked]
    tokens = [IDS[at : at + (1 if at < 5 else 4)] for at in range(len(asked))]
    alone = []
    for sequence, part in zip(sequences, tokens, strict=True):
        alone.append(engine.forward([row(sequence, part)])[0].copy())
        engine.truncate(sequence, 0)
    rows = [
        dataclasses.replace(
            row(sequence, part, (), "last" if wanted == "few" else wanted),
            among=AMONG if wanted == "few" else None,
        )
        for sequence, part, wanted in zip(sequences, tokens, asked, strict=True)
    ]
    found = engine.forward(rows)
    expected = [
        each[list(asked_row.positions)] for each, asked_row in zip(alone, rows, strict=True)
    ]
    expected[2] = expected[2][:, AMONG]
    for logits, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=2e-6)
    for sequence in sequences:
        engine.close_sequence(sequence)


def test_the_head_runs_for_those_alone_that_need_it(engines, monkeypatch):
    engine = engines(truth_base("gemma3"))
    sequences = [engine.open_sequence() for _ in range(3)]
    heads, want = [], Step.want

    def noted(self, keep, asked, logits):
        heads.append(list(asked))
        want(self, keep, asked, logits)

    monkeypatch.setattr(Step, "want", noted)
    asked = ("none", "last", "last")
    rows = [row(s, [9], (), wanted) for s, wanted in zip(sequences, asked, strict=True)]
    rows[1] = dataclasses.replace(rows[1], among=AMONG)
    engine.forward(rows)
    engine.forward([row(s, [9], (), "none") for s in sequences])
    engine.hidden([(IDS, ())])
    assert [len(each) for each in heads] == [1, 0, 0]
    for sequence in sequences:
        engine.close_sequence(sequence)


@pytest.mark.parametrize(
    "wanted",
    [
        {"logits": (3, 1)},
        {"logits": (11,)},
        {"logits": "all", "among": AMONG},
        {"logits": "last", "among": AMONG[::-1]},
        {"logits": "last", "among": np.array([512])},
    ],
)
def test_what_a_row_cannot_want_is_refused(engines, wanted):
    engine = engines(truth_base("gemma3"))
    sequence = engine.open_sequence()
    with pytest.raises(ParameterError):
        engine.forward([dataclasses.replace(row(sequence, IDS), **wanted)])
    assert engine.length(sequence) == 0
    engine.close_sequence(sequence)


# The parts.


def test_sums_of_wide_codes_are_exact():
    """Beyond what float32 holds, against integers; one product alone would be seen."""
    rng = np.random.default_rng(0)
    weight = np.abs(rng.standard_normal((6, 3000))).astype(np.float32)
    x = np.abs(rng.standard_normal((2, 3000))).astype(np.float32)
    form = Rowwise(None)
    values, scales = form.stored(np.minimum(weight, 0.5))
    codes, size = form.read(np.minimum(x, 0.5))
    total = codes.astype(np.int64) @ values.T.astype(np.int64)
    assert total.max() > 1 << 24
    expected = total.astype(np.float32) * (np.float32(1 / 127) * scales[:, 0]) * size
    np.testing.assert_array_equal(form.product((codes, size), values, scales), expected)
    assert (codes @ values.T != total.astype(np.float32)).any()


def test_rows_of_zeros():
    zeros = np.zeros((1, 64), np.float32)
    for form in (Rowwise(None), Rowwise(np.ones(64, np.float32)), Blockwise(32, True)):
        stored = form.stored(RNG.standard_normal((3, 64)).astype(np.float32))
        assert not form.product(form.read(zeros), *stored).any()


def test_rows_that_were_used_are_kept_and_the_oldest_go():
    held = Held(100, 10)

    def ask(*ids):
        ids = np.array(ids)
        places, missing = held.places(ids)
        if missing.any():
            new = ids[missing]
            places[missing] = held.put(new, new[:, None] * np.ones((1, 4)), new[:, None] * 1.0)
        np.testing.assert_array_equal(held.values[places][:, 0], ids)
        np.testing.assert_array_equal(held.scales[places][:, 0], ids)
        return ids[missing].tolist()

    assert ask(1, 2, 3, 4) == [1, 2, 3, 4]
    assert ask(2, 3, 50, 51, 52, 53) == [50, 51, 52, 53]
    assert ask(1, 2, 3) == []
    assert ask(2, 60, 61, 62) == [60, 61, 62]  # 4 was asked for longest ago, and goes
    assert ask(1, 3) == []
    assert ask(4) == [4]
    rng = np.random.default_rng(1)
    for _ in range(50):
        ask(*np.sort(rng.choice(100, rng.integers(1, 11), replace=False)))


def test_what_is_asked_again_is_not_made_again(engines, monkeypatch):
    engine = engines(truth_base("gemma3"), "int8")
    both(engine, IDS)
    monkeypatch.setattr(Rowwise, "stored", lambda *_: pytest.fail("made again"))
    both(engine, IDS)
