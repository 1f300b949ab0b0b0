"""What comes out is what was trained: PEFT gives its logits; it can be continued, and restored."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra train")

import torch
from core_cases import PLAIN, apart, base_of, model_of, naive, ours, peft_of, rows_of

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.errors import (
    CapabilityError,
    ContextFullError,
    MismatchError,
    ParameterError,
)
from lorakit.training.core.model import load_model
from lorakit.training.core.spec import LoraSpec
from torch_cases import merged, truth_base

BATCH = rows_of(20, [9, 14, 5])
SPECS = {
    "plain": LoraSpec(rank=4),
    "rslora": LoraSpec(rank=4, rslora=True, targets=("q_proj", "up_proj")),
    "dora": LoraSpec(rank=4, dora=True),
    "pissa": LoraSpec(rank=4, pissa=True),
    "embeddings": LoraSpec(rank=4, embeddings=True),
    "tokens": LoraSpec(rank=4, tokens=(7, *BATCH[0].ids[3:6])),
}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return base_of("gemma3", tmp_path_factory.mktemp("bases"))


def loss_of(model, rows, **options):
    with torch.no_grad():
        return model.loss(rows, **options)[0].item()


def peft_loss(model, rows):
    return naive(model, rows)[0]


@pytest.mark.parametrize("spec", SPECS)
def test_peft_computes_the_same(gemma, tmp_path, spec):
    model = model_of(gemma, SPECS[spec])
    peft = peft_of(gemma, model.adapter(), tmp_path / "a")
    assert loss_of(model, BATCH) == pytest.approx(peft_loss(peft, BATCH), rel=1e-5)


def test_pissa_begins_where_the_base_stands(gemma, tmp_path):
    plain = loss_of(model_of(gemma, moved=False), BATCH)
    model = model_of(gemma, SPECS["pissa"], moved=False)
    assert loss_of(model, BATCH) == pytest.approx(plain, rel=1e-5)
    name, layer = next(iter(model._built.linears.items()))
    weight = torch.from_numpy(np.array(gemma.weight(name)))
    _, s, _ = torch.linalg.svd(weight)
    left = torch.linalg.norm(weight - layer.scale * layer.b @ layer.a)
    assert left < 1.001 * s[4:].square().sum().sqrt()


def test_pissa_without_what_it_began_with_is_another_adapter(gemma, tmp_path):
    model = model_of(gemma, SPECS["pissa"])
    model._built.initial.clear()
    peft = peft_of(gemma, model.adapter(), tmp_path / "a")
    assert loss_of(model, BATCH) != pytest.approx(peft_loss(peft, BATCH), rel=1e-3)


@pytest.mark.parametrize("spec", SPECS)
def test_continues_where_it_stopped(gemma, spec):
    adapter = model_of(gemma, SPECS[spec]).adapter()
    again = load_model(gemma, LoraSpec(rank=99), start=adapter, numerics=PLAIN)
    assert again.adapter() == adapter
    assert loss_of(again, BATCH) == pytest.approx(
        loss_of(model_of(gemma, SPECS[spec]), BATCH), rel=1e-5
    )


def test_the_same_seed_begins_alike(gemma):
    first, again, other = (
        load_model(gemma, SPECS["pissa"], numerics=PLAIN, seed=seed).adapter() for seed in (1, 1, 2)
    )
    assert first == again
    a, b = (load_model(gemma, LoraSpec(), numerics=PLAIN, seed=s).adapter() for s in (1, 2))
    assert a != b
    assert {d.scale for d in other.deltas} == {4.0}


def test_restore_takes_over_every_value(gemma):
    trained, new = model_of(gemma), model_of(gemma, moved=False)
    new.restore(trained.state())
    assert new.adapter() == trained.adapter()
    with pytest.raises(ParameterError, match="another training run") as caught:
        new.restore(model_of(gemma, LoraSpec(rank=2)).state())
    assert "expected [4, 48], found [2, 48]" in caught.value.items[0]


def companion_of(base, seed):
    trained = model_of(base, LoraSpec(rank=3, targets=("q_proj", "down_proj")), seed=seed)
    return trained.adapter()


def test_a_companion_is_as_if_it_were_in_the_weights(gemma, tmp_path):
    companion = companion_of(gemma, 1)
    model = model_of(gemma, companions={"c": companion})
    changed = Base.open(merged(tmp_path / "merged", gemma, [(companion, 0.7)]))
    truth = naive(peft_of(changed, model.adapter(), tmp_path / "a"), BATCH)
    assert apart(ours(model, BATCH, companions={"c": 0.7}), truth) < 1e-5
    assert apart(ours(model, BATCH, companions={"c": 0.6}), truth) > 1e-3
    assert apart(ours(model, BATCH), truth) > 1e-3


def test_companions_of_each_row(gemma):
    """Rows of other companions share no prefix with each other."""
    model = model_of(gemma, companions={n: companion_of(gemma, i) for i, n in enumerate("cd")})
    each = [{"c": 0.7, "d": 0.2}, {}, {"d": 1.0}]
    total, gradients = 0.0, {}
    for row, active in zip(BATCH, each, strict=True):
        loss, found = ours(model, [row], companions=active)
        total += loss
        gradients = {name: gradients.get(name, 0) + g for name, g in found.items()}
    assert apart(ours(model, BATCH, companions=each), (total, gradients)) < 1e-5
    assert apart(ours(model, BATCH, companions=each[::-1]), (total, gradients)) > 1e-3


def test_companions_are_asked_for_by_name_and_row(gemma):
    model = model_of(gemma, companions={"c": companion_of(gemma, 1)})
    for wrong in ({"e": 1.0}, [{}], [{}, {}, {"e": 0.0}]):
        with pytest.raises(ParameterError, match="companions: expected"):
            model.loss(BATCH, wrong)


def test_bad_batches(gemma):
    model = model_of(gemma)
    with pytest.raises(ContextFullError, match="257 tokens is longer"):
        model.loss(rows_of(0, [257]))
    with pytest.raises(ParameterError, match="at least one"):
        model.loss([])


def test_longrope_holds_to_its_first_context(tmp_path):
    base = base_of("longrope", tmp_path)
    model = model_of(base)
    assert loss_of(model, rows_of(20, [9, 12])) > 0
    with pytest.raises(CapabilityError, match="33 tokens: beyond 32 tokens longrope"):
        model.loss(rows_of(20, [9, 13]))


def test_every_bad_wish_is_named(gemma):
    with pytest.raises(ParameterError) as caught:
        load_model(gemma, LoraSpec(targets=("q_proj", "c_attn"), tokens=(5000,)), numerics=PLAIN)
    assert caught.value.items == ("c_attn", "token 5000: there are 5000")
    with pytest.raises(ParameterError) as caught:
        LoraSpec(rank=0, alpha=float("nan"), dora=True, pissa=True, embeddings=True, tokens=(1,))
    assert len(caught.value.items) == 5


def test_a_mixture_of_experts_is_refused():
    base = Base.open(truth_base("gemma3").parents[1].parent / "families/qwen3_moe")
    with pytest.raises(CapabilityError, match="qwen3_moe"):
        load_model(base, LoraSpec(), numerics=PLAIN)


def test_what_cannot_be_continued_is_named(gemma):
    good = model_of(gemma).adapter()
    delta = good.deltas[0]
    table = gemma.decoder.embedding
    a, b = np.ones((1, 5000), np.float32), np.ones((32, 1), np.float32)
    embedded = Delta(module=table, a=a, b=b, scale=1.0, site=Site.BOTH)
    norm = Replacement(name="model.norm.weight", value=np.ones(32, np.float32))
    bad = replace(
        good,
        deltas=(replace(delta, bias=np.ones(delta.out_features, np.float32)), embedded),
        magnitudes=(Magnitude(module=table, value=np.ones(32, np.float32)),),
        replacements=(norm,),
        invocation_tokens=(5,),
    )
    with pytest.raises(CapabilityError, match="cannot continue") as caught:
        load_model(gemma, LoraSpec(), start=bad, numerics=PLAIN)
    assert len(caught.value.items) == 5
    with pytest.raises(CapabilityError, match="cannot continue"):
        load_model(gemma, LoraSpec(), start=Adapter(replacements=(norm,)), numerics=PLAIN)


def test_an_adapter_of_another_base(gemma, tmp_path):
    other = model_of(base_of("gpt2", tmp_path)).adapter()
    with pytest.raises(MismatchError):
        load_model(gemma, LoraSpec(), start=other, numerics=PLAIN)
    with pytest.raises(MismatchError):
        load_model(gemma, LoraSpec(), companions={"c": other}, numerics=PLAIN)


def test_companions_that_are_more_than_low_rank(gemma):
    for spec in ("dora", "tokens", "embeddings"):
        adapter = model_of(gemma, SPECS[spec]).adapter()
        with pytest.raises(CapabilityError, match="a companion must be"):
            load_model(gemma, LoraSpec(), companions={"c": adapter}, numerics=PLAIN)
