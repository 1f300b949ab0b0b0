"""Every kind of change against weights that were merged by plain arithmetic in float64."""

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.errors import AdapterError, CapabilityError
from onnx_cases import logits_of, truth_adapter
from torch_cases import merged, open_torch, tiny_base, truth_base

IDS = np.random.default_rng(5).integers(0, 96, 21)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Random tiny checkpoints of families that hold their weights in other ways, opened."""
    import transformers

    small = {"vocab_size": 96, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
    llama = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        **small,
    )
    configs = {
        "qwen3_moe": transformers.Qwen3MoeConfig(
            intermediate_size=48,
            moe_intermediate_size=12,
            num_experts=5,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            mlp_only_layers=[1],
            **llama,
        ),
        "phi3": transformers.Phi3Config(
            intermediate_size=40, **{k: v for k, v in llama.items() if k != "head_dim"}
        ),
        "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **small),
    }
    opened = {}
    for index, (name, config) in enumerate(configs.items()):
        folder = tiny_base(tmp_path_factory.mktemp("tiny") / name, config, seed=index)
        opened[name] = Base.open(folder), open_torch(folder)
    opened["gemma3"] = Base.open(truth_base("gemma3")), open_torch(truth_base("gemma3"))
    opened["llama"] = Base.open(truth_base("llama")), open_torch(truth_base("llama"))
    yield opened
    for _, engine in opened.values():
        engine.close()


def delta(base, module, rng, *, site=None, rank=3, scale=0.7, bias=False):
    """A random delta of a module, of the shape that its base gives it."""
    shape = base.decoder.modules()[module]
    n_in, n_out = shape.in_features, shape.out_features
    if shape.embedding:
        site = site or Site.INPUT
        n_in, n_out = (n_out, n_in) if site is Site.OUTPUT else (n_in, n_out)
    lead = (shape.experts,) if shape.experts else ()
    return Delta(
        module=module,
        a=rng.standard_normal((*lead, rank, n_in), np.float32) * 0.3,
        b=rng.standard_normal((*lead, n_out, rank), np.float32) * 0.1,
        scale=scale,
        site=site or Site.LINEAR,
        bias=rng.standard_normal(n_out, np.float32) * 0.1 if bias else None,
    )


def magnitude(base, change, rng, size=None):
    """A magnitude of some 1.2 times the norms of the base's weight."""
    size = size or change.out_features
    weight = base.weight(change.module).astype(np.float64)  # [out, in]
    norm = np.linalg.norm(weight, axis=0 if weight.shape[0] != size else 1)
    return Magnitude(
        module=change.module, value=(norm * rng.uniform(0.9, 1.5, size)).astype(np.float32)
    )


def every_module(base, rng, **options):
    names = [name for name, s in base.decoder.modules().items() if not s.embedding]
    return [delta(base, name, rng, **options) for name in names]


def dora(base, deltas, rng):
    kept = [d for d in deltas if d.a.ndim == 2]
    return Adapter(
        deltas=tuple(kept), magnitudes=tuple(magnitude(base, change, rng) for change in kept)
    )


def equal(tmp_path, base, engine, parts, ids=IDS, atol=2e-4):
    """The engine's answer under adapters [(adapter, scale)] is that of the merged weights."""
    handles = [engine.attach(engine.prepare(adapter)) for adapter, _ in parts]
    held = tuple((handle, scale) for handle, (_, scale) in zip(handles, parts, strict=True))
    other = open_torch(merged(tmp_path / "merged", base, parts))
    expected = logits_of(other, ids)
    found = logits_of(engine, ids, held, chunk=8)
    change = np.abs(expected - logits_of(engine, ids)).max()
    assert change > 50 * atol, f"the adapters do next to nothing: {change}"
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    other.close()
    for handle in handles:
        engine.detach(handle)


@pytest.mark.parametrize("name", ["qwen3_moe", "phi3", "gpt2", "llama"])
@pytest.mark.parametrize("kind", ["plain", "dora", "two"])
def test_every_linear_module(tmp_path, tiny, name, kind):
    """Experts and their router, fused projections, Conv1D; alone, with DoRA, several at once."""
    (base, engine), rng = tiny[name], np.random.default_rng(7)
    plain = Adapter(deltas=tuple(every_module(base, rng)))
    parts = {
        "plain": [(plain, 0.8)],
        "dora": [(dora(base, every_module(base, rng), rng), 0.6)],
        "two": [
            (plain, -0.5),
            (dora(base, every_module(base, rng, rank=2), rng), 1.3),
            (Adapter(deltas=tuple(every_module(base, rng))), 0.4),
        ],
    }[kind]
    equal(tmp_path, base, engine, parts)


@pytest.mark.parametrize("site", [Site.INPUT, Site.OUTPUT, Site.BOTH])
@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
@pytest.mark.parametrize("axis", [None, "hidden", "vocabulary"])
def test_tied_embedding(tmp_path, tiny, name, site, axis):
    """At one use of a tied matrix or both; DoRA over its hidden axis (PEFT) or its rows (MLX)."""
    (base, engine), rng = tiny[name], np.random.default_rng(8)
    change = delta(base, base.decoder.embedding, rng, site=site)
    other = Adapter(deltas=(delta(base, "lm_head", rng),))
    size = {None: 0, "hidden": base.decoder.hidden, "vocabulary": base.decoder.vocabulary}[axis]
    magnitudes = (magnitude(base, change, rng, size),) if size else ()
    adapter = Adapter(deltas=(change,), magnitudes=magnitudes)
    equal(tmp_path, base, engine, [(adapter, 0.6), (other, 1.0)])


def test_learned_positions(tmp_path, tiny):
    (base, engine), rng = tiny["gpt2"], np.random.default_rng(9)
    equal(tmp_path, base, engine, [(Adapter(deltas=(delta(base, "transformer.wpe", rng),)), 1.0)])


def test_replacements_come_before_deltas(tmp_path, tiny):
    """Norms, biases, heads, embeddings whole and by rows, with plain and DoRA deltas on top."""
    rng = np.random.default_rng(10)
    for name, names in {
        "gpt2": ("transformer.ln_f.bias", "transformer.h.1.attn.c_attn.weight"),
        "gemma3": ("model.norm.weight", "model.layers.2.self_attn.o_proj.weight"),
        "llama": ("lm_head.weight", "model.embed_tokens.weight"),
        "qwen3_moe": ("model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.down_proj"),
    }.items():
        base, engine = tiny[name]
        values = tuple(
            Replacement(name=n, value=(base.tensor(n) * 1.2 + 0.02).astype(np.float32))
            for n in names
        )
        modules = [n.removesuffix(".weight") for n in names if n.endswith(".weight")]
        modules = [n for n in modules if n in base.decoder.modules()]
        parts = [
            (Adapter(replacements=values), 0.3),
            (dora(base, [delta(base, n, rng) for n in modules], rng), 0.5),
            (Adapter(deltas=tuple(delta(base, n, rng) for n in modules)), 1.0),
        ]
        equal(tmp_path / name, base, engine, parts) if (tmp_path / name).mkdir() is None else None


@pytest.mark.parametrize("site", [None, Site.INPUT, Site.OUTPUT])
def test_replaced_rows_at_either_use(tmp_path, tiny, site):
    (base, engine), rng = tiny["gemma3"], np.random.default_rng(11)
    rows = Replacement(
        name="model.embed_tokens.weight",
        value=rng.standard_normal((3, base.decoder.hidden), np.float32) * 0.1,
        rows=np.array([2, int(IDS[4]), 500]),
        site=site,
    )
    change = delta(base, "model.embed_tokens", rng, site=Site.BOTH)
    other = Adapter(deltas=(change,), magnitudes=(magnitude(base, change, rng),))
    equal(tmp_path, base, engine, [(Adapter(replacements=(rows,)), 0.5), (other, 0.7)])


def test_bias_of_b(tmp_path, tiny):
    (base, engine), rng = tiny["gpt2"], np.random.default_rng(12)
    names = [n for n in base.decoder.modules() if n.startswith("transformer.h.")]
    adapter = Adapter(deltas=tuple(delta(base, n, rng, bias=True) for n in names))
    equal(tmp_path, base, engine, [(adapter, 0.9)])


def test_two_adapters_may_not_replace_the_same(tiny):
    base, engine = tiny["llama"]
    values = [base.tensor("model.norm.weight") * s for s in (1.1, 0.9)]
    handles = [
        engine.attach(
            engine.prepare(Adapter(replacements=(Replacement(name="model.norm.weight", value=v),)))
        )
        for v in values
    ]
    before = logits_of(engine, IDS)
    with pytest.raises(AdapterError, match="same parameters") as failed:
        logits_of(engine, IDS, tuple((handle, 1.0) for handle in handles))
    assert failed.value.items == ("model.norm.weight",)
    np.testing.assert_array_equal(logits_of(engine, IDS), before)
    logits_of(engine, IDS, ((handles[0], 1.0), (handles[1], 0.0)))  # one of them is off
    for handle in handles:
        engine.detach(handle)


def test_what_no_weight_answers_to_is_refused(tiny):
    base, engine = tiny["qwen3_moe"]
    rng = np.random.default_rng(13)
    with pytest.raises(CapabilityError, match="bias"):
        engine.attach(
            engine.prepare(
                Adapter(deltas=(delta(base, "model.layers.0.mlp.gate", rng, bias=True),))
            )
        )


def test_the_model_itself_never_changes(tiny):
    """After adapters of every kind the base's logits are the same to the bit."""
    engine = tiny["gemma3"][1]
    before = logits_of(engine, IDS)
    for name in ("dora", "norm_save", "embed_tied"):
        handle = engine.attach(engine.prepare(truth_adapter("gemma3", name)))
        assert np.abs(logits_of(engine, IDS, ((handle, 1.0),)) - before).max() > 1e-2
        np.testing.assert_array_equal(logits_of(engine, IDS, ((handle, 0.0),)), before)
        engine.detach(handle)
    np.testing.assert_array_equal(logits_of(engine, IDS), before)
