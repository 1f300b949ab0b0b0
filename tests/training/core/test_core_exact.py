"""Our gradients against PEFT's own, which knows no shortcut; each shortcut broken must be seen."""

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="training needs the extra train")
pytest.importorskip("peft", reason="the oracle is PEFT")

import torch
from core_cases import CONFIGS, Row, apart, base_of, model_of, naive, ours, peft_of, rows_of

from lorakit.training.core import last, layers, model, numerics, pieces, rows
from lorakit.training.core.numerics import Numerics
from lorakit.training.core.spec import LoraSpec

EXACT = 1e-5
SEEN = 1e-3  # what a broken variant must be off by
SHARED = rows_of(40, [17, 17, 17, 17])
UNEVEN = rows_of(30, [3, 40, 11, 26, 2])
BATCHES = {
    "shared prefix": SHARED,
    "uneven tails": UNEVEN,
    "packing": rows_of(0, [19, 33, 8, 25]),
    "one example": rows_of(0, [37]),
    "two prefixes and one alone": rows_of(30, [9, 5]) + rows_of(26, [4, 8, 8], 1) + rows_of(0, [6]),
    "answers in the prefix": [replace(r, answers=(False, *[True] * (len(r.ids) - 1)))
                              for r in rows_of(14, [3, 5])],
    "one within another": [Row(r.ids[:35], r.answers[:35]) for r in UNEVEN[1:2]] + UNEVEN[1:3],
    "long tails of several lengths": rows_of(5, [140, 150, 20, 30]),
}  # fmt: skip
SPECS = {
    "all linears": LoraSpec(rank=4),
    "some": LoraSpec(rank=3, alpha=5, targets=("q_proj", "layers.1.mlp.down_proj")),
    "rslora": LoraSpec(rank=4, rslora=True),
    "dora": LoraSpec(rank=4, dora=True),
    "embeddings": LoraSpec(rank=4, embeddings=True),
    "tokens": LoraSpec(rank=4, tokens=(4999, *UNEVEN[0].ids[5:9], UNEVEN[1].ids[-1], 2050)),
}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return base_of("gemma3", tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def truth(gemma, tmp_path_factory):
    """PEFT's gradients of a spec and a batch, each made once."""
    known = {}

    def of(spec, batch, base=gemma):
        key = (spec, tuple(batch), base.path)
        if key not in known:
            adapter = model_of(base, spec).adapter()
            known[key] = naive(peft_of(base, adapter, tmp_path_factory.mktemp("peft") / "a"), batch)
        return known[key]

    return of


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family(tmp_path, truth, family):
    base = base_of(family, tmp_path)
    batches = (SHARED, UNEVEN) if family != "longrope" else (rows_of(20, [9, 12]),)
    for batch in batches:
        found = ours(model_of(base), batch)
        assert apart(found, truth(LoraSpec(rank=4), batch, base)) < EXACT


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_arrangement(gemma, truth, batch, in_pieces):
    """Both by fused attention and by matrix products."""
    trained = model_of(gemma)
    trained._in_pieces = in_pieces
    assert apart(ours(trained, BATCHES[batch]), truth(LoraSpec(rank=4), BATCHES[batch])) < EXACT


@pytest.mark.parametrize("spec", SPECS)
def test_every_kind_of_adapter(gemma, truth, spec):
    found = ours(model_of(gemma, SPECS[spec]), UNEVEN)
    assert apart(found, truth(SPECS[spec], UNEVEN)) < EXACT


def test_trained_rows_of_an_untied_base(tmp_path, truth):
    base = base_of("llama", tmp_path)
    found = ours(model_of(base, SPECS["tokens"]), UNEVEN)
    assert apart(found, truth(SPECS["tokens"], UNEVEN, base)) < EXACT


def test_products_of_onednn(gemma, truth):
    """Where torch has them; elsewhere they are not chosen."""
    there = numerics._right(torch.randn(8, 32), torch.randn(16, 32))
    trained = model_of(gemma, numerics=Numerics(dtype="float32", onednn=there))
    for in_pieces in (False, True):
        trained._in_pieces = in_pieces
        assert apart(ours(trained, UNEVEN), truth(LoraSpec(rank=4), UNEVEN)) < EXACT


def test_long_queries_are_cut(gemma, truth, monkeypatch):
    """Pieces of 16 queries, of which windows hide whole prefixes."""
    monkeypatch.setattr(pieces, "QUERIES", 16)
    for batch in (SHARED, BATCHES["long tails of several lengths"]):
        trained = model_of(gemma)
        trained._in_pieces = True
        assert apart(ours(trained, batch), truth(LoraSpec(rank=4), batch)) < EXACT


def test_bfloat16_is_near(gemma, truth):
    """Not exact; nor is what PEFT computes in bfloat16."""
    found = ours(model_of(gemma, numerics=Numerics(dtype="bfloat16")), UNEVEN)
    assert EXACT < apart(found, truth(LoraSpec(rank=4), UNEVEN)) < 0.2


def _packed(change):
    """`pack` with a change to what it gives."""

    def broken(monkeypatch):
        monkeypatch.setattr(model, "pack", lambda *given: change(rows.pack(*given)))

    return broken


def _one_sequence(packed):
    tails = rows.Tails(starts=(0,), lengths=(len(packed.ids),))
    return replace(packed, groups=(rows.Group(start=0, prefix=0, tails=(tails,)),))


def _next_label(packed):
    return replace(packed, labels=(*packed.labels[:-1], (packed.labels[-1] + 1) % 5000))


BROKEN = {
    "positions go on": _packed(lambda p: replace(p, positions=tuple(range(len(p.positions))))),
    "tails see each other": _packed(_one_sequence),
    "one label is another": _packed(_next_label),
    "states are one too late": _packed(
        lambda p: replace(p, states=tuple((s + 1) % len(p.ids) for s in p.states))
    ),
}


@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_row_is_seen(gemma, truth, monkeypatch, variant):
    BROKEN[variant](monkeypatch)
    assert apart(ours(model_of(gemma), UNEVEN), truth(LoraSpec(rank=4), UNEVEN)) > SEEN


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_window_ignored_is_seen(gemma, truth, in_pieces):
    """The window is 12 tokens, the prefix 40."""
    broken = model_of(gemma)
    broken._in_pieces, broken._windows = in_pieces, [None] * 3
    assert apart(ours(broken, SHARED), truth(LoraSpec(rank=4), SHARED)) > SEEN


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_window_of_one_more_is_seen(gemma, truth, in_pieces):
    broken = model_of(gemma)
    broken._in_pieces, broken._windows = in_pieces, [w and w + 1 for w in broken._windows]
    assert apart(ours(broken, SHARED), truth(LoraSpec(rank=4), SHARED)) > SEEN


def test_the_last_mlp_computes_what_is_read_alone(gemma):
    trained = model_of(gemma)
    given = []
    trained._built.linears["model.layers.2.mlp.down_proj"].register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0].shape[1])
    )
    ours(trained, UNEVEN)
    assert given == [sum(sum(row.answers) for row in UNEVEN)]


def test_a_state_that_is_read_left_out_is_seen(gemma, truth, monkeypatch):
    real = last._run

    def one_less(forward, step, x):
        step.read = step.read[1:]
        return real(forward, step, x)

    monkeypatch.setattr(last, "_run", one_less)
    assert apart(ours(model_of(gemma), UNEVEN), truth(LoraSpec(rank=4), UNEVEN)) > SEEN


def test_a_tile_left_out_is_seen(gemma, truth):
    broken = model_of(gemma)
    broken._head = replace(broken._head, weight=broken._head.weight[:4096])
    batch = [r for r in UNEVEN if max(r.ids) < 4096] or [Row(UNEVEN[0].ids[:8], (True,) * 8)]
    batch = [Row(tuple(i % 4096 for i in r.ids), r.answers) for r in batch]
    assert apart(ours(broken, batch), truth(LoraSpec(rank=4), batch)) > SEEN


def test_a_norm_from_the_start_is_seen(gemma, truth, monkeypatch):
    real = layers.norms
    monkeypatch.setattr(layers, "norms", lambda weight, a, b, scale: real(weight, a, b, 0.0))
    found = ours(model_of(gemma, SPECS["dora"]), UNEVEN)
    assert apart(found, truth(SPECS["dora"], UNEVEN)) > SEEN


def test_a_soft_cap_forgotten_is_seen(tmp_path, truth):
    base = base_of("softcap", tmp_path)
    broken = model_of(base)
    broken._head = replace(broken._head, softcap=None)
    assert apart(ours(broken, SHARED), truth(LoraSpec(rank=4), SHARED, base)) > SEEN


def test_rows_forgotten_at_the_head_are_seen(gemma, truth):
    """A tied row is used twice."""
    broken = model_of(gemma, SPECS["tokens"])
    broken._built.table.weight = torch.nn.Parameter(broken._built.head.detach().clone(), False)
    broken._head = replace(broken._head, replaced=None)
    assert apart(ours(broken, UNEVEN), truth(SPECS["tokens"], UNEVEN)) > SEEN
