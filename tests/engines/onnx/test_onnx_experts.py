"""Mixtures of experts: the base, adapters on experts and beside them, each row with its own."""

import dataclasses

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement
from lorakit.base.folder import Base
from lorakit.errors import CapabilityError
from lorakit.formats.peft import read_peft
from lorakit.graph.experts import row_mask
from lorakit.merge import merge
from onnx_cases import DATA, TRUTH, logits_of, open_engine, row

FOLDER = DATA / "families/qwen3_moe"  # its second layer is dense
IDS = np.random.default_rng(3).integers(4, 90, 40)
FORMS = ("none", "int8", "int4")


@pytest.fixture(scope="module")
def base():
    return Base.open(FOLDER)


@pytest.fixture(scope="module")
def engine():
    opened = open_engine(FOLDER)
    yield opened
    opened.close()


def adapter_of(base, seed, kinds=("experts", "gate", "attn", "dense"), rank=3):
    """A random adapter of linears: of experts, routers, attention and dense MLPs."""
    rng, deltas = np.random.default_rng(seed), []
    for name, shape in base.decoder.modules().items():
        kind = "experts" if shape.experts else "gate" if name.endswith("mlp.gate") else ""
        kind = kind or ("attn" if "self_attn" in name else "dense" if ".mlp." in name else "")
        if kind not in kinds:
            continue
        axes = (shape.experts,) if shape.experts else ()
        a = rng.standard_normal((*axes, rank, shape.in_features), np.float32) * 0.3
        b = rng.standard_normal((*axes, shape.out_features, rank), np.float32) * 0.2
        deltas.append(Delta(module=name, a=a, b=b, scale=0.8))
    return Adapter(deltas=tuple(deltas))


def attach(engine, *adapters):
    return [engine.attach(engine.prepare(adapter)) for adapter in adapters]


@pytest.mark.parametrize("case", ["qwen3_moe", "qwen3_moe_experts"])
def test_peft_recorded_the_same(tmp_path, case):
    """Of routers and attention; of experts in PEFT's fused parameters."""
    folder = TRUTH / "llama_cpp" / case
    merge(TRUTH / "llama_cpp/qwen3_moe/base.f32.gguf", [], tmp_path / "base")
    engine = open_engine(tmp_path / "base")
    (handle,) = attach(engine, read_peft(folder))
    with np.load(folder / "logits.npz") as known:
        np.testing.assert_allclose(logits_of(engine, known["ids"]), known["base"], atol=2e-5)
        for chunk in (None, 1, 5):
            found = logits_of(engine, known["ids"], ((handle, 1.0),), chunk=chunk)
            np.testing.assert_allclose(found, known["adapted"], rtol=0, atol=1e-4)
    engine.close()


@pytest.mark.parametrize("kinds", [("experts",), ("experts", "gate", "attn", "dense"), ("gate",)])
def test_torch_computes_the_same(base, engine, kinds):
    """Two together at scales, with another scale afterwards."""
    pytest.importorskip("torch", reason="the live oracle needs torch and transformers")
    pytest.importorskip("transformers", reason="the live oracle needs transformers")
    from torch_cases import open_torch

    adapters, other = [adapter_of(base, seed, kinds) for seed in (1, 2)], open_torch(FOLDER)
    for scales in ((0.7, -0.4), (0.2, 1.0)):
        answers = []
        for each in (engine, other):
            handles = attach(each, *adapters)
            held = tuple(zip(handles, scales, strict=True))
            answers.append(logits_of(each, IDS, held, chunk=17))
            for handle in handles:
                each.detach(handle)
        np.testing.assert_allclose(*answers, rtol=2e-5, atol=2e-4)
        assert np.abs(answers[0] - logits_of(engine, IDS)).max() > 0.05
    other.close()


def decoded(engine, sets):
    """Logits of some steps of rows together; each row began alone."""
    sequences = [engine.open_sequence() for _ in sets]
    for at, (sequence, held) in enumerate(zip(sequences, sets, strict=True)):
        engine.forward([row(sequence, IDS[at : at + 12], held, "none")])
    answers = []
    for step in range(4):
        batch = [
            row(sequence, IDS[20 + step + at : 21 + step + at], held, "last")
            for at, (sequence, held) in enumerate(zip(sequences, sets, strict=True))
        ]
        answers.append([logits[0].copy() for logits in engine.forward(batch)])
    for sequence in sequences:
        engine.close_sequence(sequence)
    return np.array(answers).swapaxes(0, 1)


def alone(engine, sets):
    """The same, one row at a time."""
    found = []
    for at, held in enumerate(sets):
        sequence = engine.open_sequence()
        engine.forward([row(sequence, IDS[at : at + 12], held, "none")])
        found.append(
            [
                engine.forward([row(sequence, IDS[20 + n + at : 21 + n + at], held, "last")])[0][
                    0
                ].copy()
                for n in range(4)
            ]
        )
        engine.close_sequence(sequence)
    return np.array(found)


def test_each_row_of_a_batch_has_its_own(base, engine):
    one, two = attach(engine, adapter_of(base, 1), adapter_of(base, 2, rank=5))
    sets = [((one, 1.0),), (), ((two, 0.7),), ((one, -0.5), (two, 0.3)), ((one, 1.0),), ()]
    found = decoded(engine, sets)
    np.testing.assert_allclose(found, alone(engine, sets), rtol=0, atol=2e-5)
    assert np.abs(found[0] - found[2]).max() > 0.05
    same = [((one, 1.0),)] * 3  # one row serves all
    np.testing.assert_allclose(decoded(engine, same), alone(engine, same), rtol=0, atol=2e-5)
    for handle in (one, two):
        engine.detach(handle)


def test_another_rows_factors_would_be_seen(base, monkeypatch):
    """The broken variant: the masks of rows, shifted by one."""

    def other(w, shared, number, adapters):
        mask = row_mask(w, shared, number, adapters)
        indices = w.node(
            "Sub",
            [w.node("Shape", [mask], f"{mask}.s{adapters}", end=1), w.shape(1)],
            f"{mask}.i{adapters}",
        )
        return w.node("Gather", [mask, indices], f"{mask}.g{adapters}", axis=0)

    monkeypatch.setattr("lorakit.graph.lora.row_mask", other)
    engine = open_engine(FOLDER)
    one, two = attach(engine, adapter_of(base, 1), adapter_of(base, 2))
    sets = [((one, 1.0),), ((two, 1.0),)]
    assert np.abs(decoded(engine, sets) - alone(engine, sets)).max() > 0.05
    engine.close()


@pytest.mark.parametrize("form", FORMS)
def test_the_base_stays_as_it_was(base, form):
    """To the bit, and so do adapters beside the experts; in a batch too where codes follow."""
    engine = open_engine(FOLDER, quantize=form)
    (beside,) = attach(engine, adapter_of(base, 1, ("gate", "attn", "dense")))
    sets = [(), ((beside, 0.6),)]
    before = [logits_of(engine, IDS, held) for held in sets]
    session = engine._session
    if form != "none":
        np.testing.assert_array_equal(decoded(engine, sets * 2), alone(engine, sets * 2))
    (experts,) = attach(engine, adapter_of(base, 2, ("experts",)))
    assert engine._session is not session  # only now
    for held, expected in zip(sets, before, strict=True):
        np.testing.assert_array_equal(logits_of(engine, IDS, held), expected)
        assert np.abs(logits_of(engine, IDS, ((experts, 1.0), *held)) - expected).max() > 0.02
        np.testing.assert_array_equal(logits_of(engine, IDS, ((experts, 0.0), *held)), expected)
    engine.detach(experts)
    np.testing.assert_array_equal(logits_of(engine, IDS), before[0])
    engine.close()


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_few_bits_are_near(base, engine, form):
    """Of the effect that an adapter of experts has."""
    narrow = open_engine(FOLDER, quantize=form)
    adapter = adapter_of(base, 1, ("experts",))
    answers = []
    for each in (engine, narrow):
        (handle,) = attach(each, adapter)
        answers.append(logits_of(each, IDS, ((handle, 1.0),)))
        each.detach(handle)
    effect = np.abs(answers[0] - logits_of(engine, IDS)).mean()
    share = np.abs(answers[0] - answers[1]).mean() / effect
    assert share < {"int8": 0.1, "int4": 0.8}[form]
    narrow.close()


def test_dora_of_what_is_not_an_expert_beside_experts(base, engine):
    pytest.importorskip("torch", reason="the live oracle needs torch and transformers")
    pytest.importorskip("transformers", reason="the live oracle needs transformers")
    from torch_cases import open_torch

    adapter = adapter_of(base, 4, ("experts", "gate", "attn"))
    values = {
        d.module: np.linalg.norm(base.weight(d.module).astype(np.float32), axis=1) * 1.2
        for d in adapter.deltas
        if d.a.ndim == 2
    }
    magnitudes = tuple(
        Magnitude(module=name, value=value.astype(np.float32)) for name, value in values.items()
    )
    adapter, other = dataclasses.replace(adapter, magnitudes=magnitudes), open_torch(FOLDER)
    answers = []
    for each in (engine, other):
        (handle,) = attach(each, adapter)
        answers.append(logits_of(each, IDS, ((handle, 0.6),), chunk=13))
        each.detach(handle)
    np.testing.assert_allclose(*answers, rtol=2e-5, atol=2e-4)
    other.close()


def test_what_experts_cannot_have_is_refused_by_name(base, engine):
    adapter = adapter_of(base, 1, ("experts",))
    one, two, *_ = adapter.deltas
    shape = base.decoder.modules()[one.module]
    fused = base.decoder.fused(one.module)
    adapter = dataclasses.replace(
        adapter,
        deltas=(
            *(d for d in adapter.deltas if d is not two),
            dataclasses.replace(two, bias=np.ones(two.out_features, np.float32)),
        ),
        magnitudes=(
            Magnitude(
                module=one.module,
                value=np.ones((shape.experts, shape.out_features), np.float32),
            ),
        ),
        replacements=(Replacement(name=fused, value=base.tensor(fused)),),
    )
    with pytest.raises(CapabilityError, match="cannot apply") as caught:
        engine.prepare(adapter)
    assert caught.value.items == (
        f"{one.module}: DoRA of experts",
        f"{two.module}: a bias of B of experts",
        f"{fused}: a replacement of experts",
    )
    assert "run --merge" in caught.value.hint


def test_experts_have_no_inputs_before_an_adapter_of_theirs_comes(base):
    engine = open_engine(FOLDER)
    assert not any(".experts." in each.name for each in engine._session.get_inputs())
    (handle,) = attach(engine, adapter_of(base, 1, ("experts",)))
    named = {each.name for each in engine._session.get_inputs()}
    assert {"model.layers.0.mlp.experts.up_proj.lora_A"} <= named
    assert not any(name.endswith(".gain") for name in named)
    engine.detach(handle)
    engine.close()
