"""Merged folders against PEFT's and MLX's own numbers, and against the plainest arithmetic."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.errors import AdapterError, MismatchError, ParameterError, UnsupportedError
from lorakit.files.safetensors import open_safetensors, write_safetensors
from lorakit.formats import read_adapter
from lorakit.merge import merge, unmerge

TRUTH = DATA / "truth"
GEMMA, LLAMA = TRUTH / "bases/gemma3", TRUTH / "bases/llama"
Q = "model.layers.0.self_attn.q_proj"
REFUSED = {"alora", "pickle_bin"}
CASES = sorted(
    f"{path.parent.parent.parent.name}/{path.parent.parent.name}/{path.parent.name}"
    for path in TRUTH.glob("*/*/*/logits.npz")
    if path.parent.name not in REFUSED
)


def logits(folder, ids):
    with lorakit.open(folder, threads=1) as model:
        return [model.logits(row.tolist()) for row in ids]


def truth(case, scale="1"):
    """(ids, logits) that the trainer's own code gives, merged where it has that right."""
    with np.load(TRUTH / case / "logits.npz") as file:
        ids = [file[f"ids{n}"] for n in range(3)]
        right = "merged" if "merged_0" in file.files and "embed" not in case else f"scale{scale}"
        return ids, [file[f"{right}_{n}"] for n in range(3)]


def worst(ours, theirs):
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_merged_model_gives_the_logits_of_the_trainers_own_code(case, tmp_path):
    base = Base.open(TRUTH / "bases" / case.split("/")[1])
    report = merge(base, [(read_adapter(TRUTH / case), 1.0)], tmp_path / "out")
    ids, expected = truth(case)
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4
    assert report.changed


@pytest.mark.parametrize("case", ["peft/gemma3/dora", "peft/gemma3/embed_tied", "mlx/gemma3/lora"])
def test_scales_mean_what_they_mean_at_run_time(case, tmp_path):
    base = Base.open(GEMMA)
    merge(base, [(read_adapter(TRUTH / case), 0.5)], tmp_path / "out")
    ids, expected = truth(case, "0.5")
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4


@pytest.mark.parametrize("folder", [GEMMA, LLAMA], ids=["tied", "untied"])
@pytest.mark.parametrize("by_token", [True, False], ids=["by-token", "by-feature"])
def test_dora_of_an_embedding_by_token_or_by_feature(folder, by_token, tmp_path):
    """MLX norms each token's row, PEFT each feature's column."""
    base, rng = Base.open(folder), np.random.default_rng(4)
    w = base.tensor("model.embed_tokens.weight").astype(np.float64)
    a, b = rng.normal(size=(3, len(w))), rng.normal(size=(w.shape[1], 3)) * 0.1
    m = rng.uniform(0.5, 2, len(w) if by_token else w.shape[1])
    delta = Delta(
        module="model.embed_tokens",
        a=a.astype(np.float32),
        b=b.astype(np.float32),
        scale=0.7,
        site=Site.BOTH if base.decoder.tied else Site.INPUT,
    )
    magnitude = Magnitude(module="model.embed_tokens", value=m.astype(np.float32))
    merge(base, [(Adapter(deltas=(delta,), magnitudes=(magnitude,)), 0.5)], tmp_path / "out")
    v = w + 0.35 * (b @ a).T
    axis = 1 if by_token else 0
    v *= np.expand_dims(m, axis) / np.linalg.norm(v, axis=axis, keepdims=True)
    np.testing.assert_allclose(stored(tmp_path / "out")["model.embed_tokens.weight"], v, atol=1e-5)


def naive(base, adapters):
    """Every linear weight by the plainest arithmetic, in float64."""
    weights = {name: np.asarray(t, np.float64) for name, t in base.tensors.items()}
    for adapter, scale in adapters:
        for d in adapter.deltas:
            change = d.scale * scale * (d.b.astype(np.float64) @ d.a.astype(np.float64))
            weights[f"{d.module}.weight"] = weights[f"{d.module}.weight"] + change
    return weights


def stored(folder):
    return dict(Base.open(folder).tensors)


def ulp(values, dtype):
    """The size of one rounding step at each value."""
    return np.abs(values) * float(ml_dtypes.finfo(dtype).eps) + 1e-30


def recast(folder, target, dtype, shards=1):
    """A copy of a model folder in another dtype, in several files."""
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix not in (".safetensors", ".npz"):
            (target / file.name).write_bytes(file.read_bytes())
    tensors = {k: np.asarray(v).astype(dtype) for k, v in Base.open(folder).tensors.items()}
    if shards == 1:
        with (target / "model.safetensors").open("wb") as file:
            write_safetensors(file, tensors, {"format": "pt"})
        return target
    names, homes = list(tensors), {}
    for n in range(shards):
        shard = f"model-{n + 1:05}-of-{shards:05}.safetensors"
        homes |= dict.fromkeys(names[n::shards], shard)
        with (target / shard).open("wb") as file:
            write_safetensors(file, {k: tensors[k] for k in names[n::shards]}, {"format": "pt"})
    size = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": homes}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_stream_rounds_once_what_plain_arithmetic_gives(dtype, tmp_path):
    base = Base.open(recast(LLAMA, tmp_path / "base", dtype))
    pair = [
        (read_adapter(TRUTH / f"peft/llama/{name}"), s)
        for name, s in [("plain", 0.7), ("plain_b", -0.3)]
    ]
    report = merge(base, pair, tmp_path / "out")
    ours, expected = stored(tmp_path / "out"), naive(base, pair)
    assert set(ours) == set(expected)
    for name, value in ours.items():
        assert value.dtype == np.dtype(dtype)
        if name in report.changed:
            near = ulp(expected[name], dtype) / 2 + 2e-6
            assert (np.abs(value.astype(np.float64) - expected[name]) <= near).all(), name
        else:
            assert value.tobytes() == base.tensors[name].tobytes()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_the_dtype_of_the_output_is_chosen(dtype, tmp_path):
    base = Base.open(recast(LLAMA, tmp_path / "base", ml_dtypes.bfloat16))
    merge(base, [(read_adapter(TRUTH / "peft/llama/plain"), 1.0)], tmp_path / "out", dtype=dtype)
    config = json.loads((tmp_path / "out/config.json").read_text())
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    assert {t.dtype.name for t in stored(tmp_path / "out").values()} == {names[dtype]}
    assert config["dtype"] == names[dtype]


def test_shards_keep_their_files_names_order_and_untouched_bytes(tmp_path):
    base = Base.open(recast(GEMMA, tmp_path / "base", np.float32, shards=3))
    adapter = read_adapter(TRUTH / "peft/gemma3/plain")
    report = merge(base, [(adapter, 1.0)], tmp_path / "out")
    assert [f.name for f in Base.open(tmp_path / "out").files] == [f.name for f in base.files]
    for file in base.files:
        before, after = open_safetensors(file), open_safetensors(tmp_path / "out" / file.name)
        assert list(before.tensors) == list(after.tensors)
        assert before.metadata == after.metadata
        for name, value in after.tensors.items():
            same = value.tobytes() == before.tensors[name].tobytes()
            assert same == (name not in report.changed)
    index = "model.safetensors.index.json"
    old, new = (json.loads((tmp_path / d / index).read_text()) for d in ("base", "out"))
    assert new == old
    ids, expected = truth("peft/gemma3/plain")
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4


def test_an_untied_head_is_added_beside_the_embedding_and_to_the_index(tmp_path):
    base = Base.open(recast(GEMMA, tmp_path / "base", np.float32, shards=2))
    report = merge(base, [(read_adapter(TRUTH / "peft/gemma3/embed_only"), 1.0)], tmp_path / "out")
    assert report.untied
    assert report.added == ("lm_head.weight",)
    assert "untied" in report.notes[0]
    out = Base.open(tmp_path / "out")
    assert not out.decoder.tied
    table = base.tensors["model.embed_tokens.weight"]
    assert out.tensors["lm_head.weight"].tobytes() == table.tobytes()
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    homes = index["weight_map"]
    assert homes["lm_head.weight"] == homes["model.embed_tokens.weight"]
    assert index["metadata"]["total_size"] == out.nbytes
    ids, expected = truth("peft/gemma3/embed_only")
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4


def delta(module, n_in, n_out, rank=4, seed=0, **more):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rank, n_in), np.float32) * 0.1
    b = rng.standard_normal((n_out, rank), np.float32) * 0.1
    return Delta(module=module, a=a, b=b, scale=0.5, **more)


def gemma_sizes():
    decoder = Base.open(GEMMA).decoder
    return decoder.vocabulary, decoder.hidden


@pytest.mark.parametrize(
    ("sites", "untied"),
    [
        (["both"], False),
        (["input"], True),
        (["head"], True),
        (["both", "head"], True),
        (["input", "both"], True),
    ],
)
def test_tied_embeddings_act_as_they_do_at_run_time(sites, untied, tmp_path):
    vocabulary, hidden = gemma_sizes()
    parts = {
        "both": delta("model.embed_tokens", vocabulary, hidden, site=Site.BOTH),
        "input": delta("model.embed_tokens", vocabulary, hidden, seed=1, site=Site.INPUT),
        "head": delta("lm_head", hidden, vocabulary, seed=2),
    }
    adapter = Adapter(deltas=tuple(parts[site] for site in sites))
    assert merge(Base.open(GEMMA), [(adapter, 1.0)], tmp_path / "out").untied == untied
    ids = [np.arange(5, 40)]
    with lorakit.open(GEMMA, threads=1) as model:
        model.load_adapter(adapter, "it")
        expected = [model.logits(ids[0].tolist(), adapters={"it": 1.0})]
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4


def test_a_tied_model_whose_files_hold_the_head_too_keeps_both_right(tmp_path):
    vocabulary, hidden = gemma_sizes()
    folder = recast(GEMMA, tmp_path / "base", np.float32)
    tensors = stored(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    copies = {name: np.array(value) for name, value in tensors.items()}
    with (folder / "model.safetensors").open("wb") as file:
        write_safetensors(file, copies, {})
    base = Base.open(folder)
    both = Adapter(deltas=(delta("model.embed_tokens", vocabulary, hidden, site=Site.BOTH),))
    head = Adapter(deltas=(delta("lm_head", hidden, vocabulary),))
    assert not merge(base, [(both, 1.0)], tmp_path / "one").untied
    one = stored(tmp_path / "one")
    assert one["lm_head.weight"].tobytes() == one["model.embed_tokens.weight"].tobytes()
    assert merge(base, [(head, 1.0)], tmp_path / "two").untied
    two = stored(tmp_path / "two")
    assert two["model.embed_tokens.weight"].tobytes() == copies["lm_head.weight"].tobytes()
    assert two["lm_head.weight"].tobytes() != copies["lm_head.weight"].tobytes()


def test_replacements_of_one_use_of_a_tied_table_untie_it(tmp_path):
    base = Base.open(GEMMA)
    table = base.tensors["model.embed_tokens.weight"]
    value = table * np.float32(0.5)
    for site, untied in [(None, False), (Site.INPUT, True), (Site.OUTPUT, True)]:
        name = "lm_head.weight" if site is Site.OUTPUT else "model.embed_tokens.weight"
        adapter = Adapter(replacements=(Replacement(name=name, value=value, site=site),))
        target = tmp_path / str(site)
        report = merge(base, [(adapter, 0.3)], target)  # replacements hold at any scale but 0
        assert report.untied == untied
        out = Base.open(target)
        changed = {Site.INPUT: (value, table), Site.OUTPUT: (table, value), None: (value, value)}
        assert np.array_equal(out.tensor("model.embed_tokens.weight"), changed[site][0])
        assert np.array_equal(out.tensor("lm_head.weight"), changed[site][1])


@pytest.mark.parametrize("first", ["plain", "dora"])
def test_dora_multiplies_what_was_added_before_it_as_peft_does(tmp_path, first):
    """By norms of the original weight with its own delta alone."""
    base = Base.open(LLAMA)
    w = base.tensors[f"{Q}.weight"].astype(np.float64)
    n_out, n_in = w.shape
    plain, dora = delta(Q, n_in, n_out), delta(Q, n_in, n_out, seed=3)
    m = np.linspace(1, 2, n_out, dtype=np.float32)
    pair = [
        (Adapter(deltas=(plain,)), 0.7),
        (Adapter(deltas=(dora,), magnitudes=(Magnitude(module=Q, value=m),)), 0.4),
    ]
    merge(base, pair if first == "plain" else pair[::-1], tmp_path / "out")
    added = 0.5 * 0.4 * dora.b.astype(np.float64) @ dora.a
    ratio = (m / np.linalg.norm(w + added, axis=1))[:, None]
    before = 0.7 * 0.5 * plain.b.astype(np.float64) @ plain.a
    expected = ratio * (w + added) + (ratio * before if first == "plain" else before)
    ours = stored(tmp_path / "out")[f"{Q}.weight"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_dora_of_an_embedding_takes_norms_down_its_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("lorakit.merge.stream.PIECE", 1000)  # several pieces
    base = Base.open(LLAMA)
    name = "model.embed_tokens"
    w = base.tensors[f"{name}.weight"].astype(np.float64)
    part = delta(name, *w.shape, site=Site.INPUT)
    m = np.linspace(1, 2, w.shape[1], dtype=np.float32)
    adapter = Adapter(deltas=(part,), magnitudes=(Magnitude(module=name, value=m),))
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    changed = w + 0.5 * (part.b.astype(np.float64) @ part.a).T
    expected = m / np.linalg.norm(changed, axis=0) * changed
    np.testing.assert_allclose(stored(tmp_path / "out")[f"{name}.weight"], expected, atol=1e-5)


def test_dora_of_an_embedding_as_mlx_makes_it_takes_norms_along_its_rows(tmp_path):
    base = Base.open(LLAMA)
    name = "model.embed_tokens"
    w = base.tensors[f"{name}.weight"].astype(np.float64)
    part = delta(name, *w.shape, site=Site.INPUT)
    m = np.linspace(1, 2, w.shape[0], dtype=np.float32)
    adapter = Adapter(deltas=(part,), magnitudes=(Magnitude(module=name, value=m),))
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    changed = w + 0.5 * (part.b.astype(np.float64) @ part.a).T
    expected = (m / np.linalg.norm(changed, axis=1))[:, None] * changed
    np.testing.assert_allclose(stored(tmp_path / "out")[f"{name}.weight"], expected, atol=1e-5)


def test_two_dora_deltas_of_one_use_keep_their_own_magnitudes(tmp_path):
    base = Base.open(LLAMA)
    w = base.tensor("lm_head.weight").astype(np.float64)
    rows, columns = w.shape
    table = delta("model.embed_tokens", columns, rows, site=Site.OUTPUT)
    head = delta("lm_head", columns, rows, seed=3)
    parts = [(head, np.linspace(3, 4, rows)), (table, np.linspace(1, 2, rows))]
    adapter = Adapter(
        deltas=(table, head),
        magnitudes=tuple(Magnitude(module=d.module, value=m.astype(np.float32)) for d, m in parts),
    )
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    expected = w
    for part, m in parts:
        low = 0.5 * part.b.astype(np.float64) @ part.a
        ratio = (m / np.linalg.norm(w + low, axis=1))[:, None]
        expected = ratio * (expected + low)
    ours = Base.open(tmp_path / "out").tensor("lm_head.weight")
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_dora_of_a_row_of_zeros_leaves_it_zero(tmp_path):
    folder = recast(LLAMA, tmp_path / "base", np.float32)
    tensors = {k: np.array(v) for k, v in Base.open(folder).tensors.items()}
    tensors[f"{Q}.weight"][3] = 0
    with (folder / "model.safetensors").open("wb") as file:
        write_safetensors(file, tensors, {})
    n_out, n_in = tensors[f"{Q}.weight"].shape
    part = delta(Q, n_in, n_out)
    part.b[3] = 0
    magnitude = Magnitude(module=Q, value=np.ones(n_out, np.float32))
    adapter = Adapter(deltas=(part,), magnitudes=(magnitude,))
    merge(Base.open(folder), [(adapter, 1.0)], tmp_path / "out")
    ours = stored(tmp_path / "out")[f"{Q}.weight"]
    assert not ours[3].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(ours, 3, 0), axis=1), 1, atol=1e-5)


def test_biases_of_b_come_with_the_config_key_that_brings_them(tmp_path):
    base = Base.open(LLAMA)
    n_out, n_in = base.tensors[f"{Q}.weight"].shape
    bias = np.linspace(-1, 1, n_out, dtype=np.float32)
    part = replace(delta(Q, n_in, n_out), bias=bias)
    report = merge(base, [(Adapter(deltas=(part,)), 2.0)], tmp_path / "out")
    out = Base.open(tmp_path / "out")
    assert out.config["attention_bias"] is True
    assert len(report.added) == 4 * len(base.decoder.layers)
    np.testing.assert_allclose(out.tensors[f"{Q}.bias"], bias, rtol=1e-6)  # 2.0 x 0.5
    assert not out.tensors["model.layers.1.self_attn.o_proj.bias"].any()
    with lorakit.open(tmp_path / "out", threads=1) as model:
        assert np.isfinite(model.logits([5, 6, 7])).all()


def test_biases_that_no_config_can_bring_are_refused():
    base = Base.open(GEMMA)
    name = "model.layers.0.mlp.up_proj"
    n_out, n_in = base.tensors[f"{name}.weight"].shape
    part = replace(delta(name, n_in, n_out), bias=np.ones(n_out, np.float32))
    with pytest.raises(UnsupportedError, match="bias of B"):
        merge(base, [(Adapter(deltas=(part,)), 1.0)], DATA / "never")
    assert not (DATA / "never").exists()


@pytest.mark.parametrize("family", ["gpt2", "phi3", "qwen2", "qwen3_moe"])
def test_every_layout_of_weights(family, tmp_path):
    """Conv1D, fused and expert weights: the merged module is W + s B A, read by its own name."""
    base = Base.open(DATA / "families" / family)
    parts = []
    for seed, (name, shape) in enumerate(base.decoder.linears(0).items()):
        part = delta(name, shape.in_features, shape.out_features, seed=seed)
        if shape.experts is not None:
            scales = np.arange(1, shape.experts + 1, dtype=np.float32)[:, None, None]
            part = replace(part, a=part.a * scales, b=np.repeat(part.b[None], shape.experts, 0))
        parts.append(part)
    report = merge(base, [(Adapter(deltas=tuple(parts)), 1.0)], tmp_path / "out")
    out = Base.open(tmp_path / "out")
    for part in parts:
        expected = base.weight(part.module) + 0.5 * part.b @ part.a
        np.testing.assert_allclose(out.weight(part.module), expected, atol=1e-5)
    for name in set(base.tensors) - set(report.changed):
        assert out.tensors[name].tobytes() == base.tensors[name].tobytes()


def fused_experts(folder, target):
    """A copy of a model folder whose experts are one tensor for each projection, as in memory."""
    base = Base.open(recast(folder, target, np.float32))
    singles = {
        p.name for m in base.decoder.modules() for p in base.stored(m) if p.expert is not None
    }
    names = {base.decoder.fused(m) for m in base.decoder.modules()} - {None}
    tensors = {k: np.array(v) for k, v in base.tensors.items() if k not in singles}
    tensors |= {name: np.array(base.tensor(name)) for name in names}
    with (target / "model.safetensors").open("wb") as file:
        write_safetensors(file, tensors, {})
    return target


def test_experts_merge_alike_however_they_are_stored(tmp_path):
    single = Base.open(DATA / "families/qwen3_moe")
    fused = Base.open(fused_experts(single.path, tmp_path / "base"))
    shapes = single.decoder.linears(0)
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.experts"
    parts = []
    for part in ("gate_proj", "up_proj", "down_proj"):
        s = shapes[f"{name}.{part}"]
        a = rng.standard_normal((s.experts, 3, s.in_features), np.float32)
        b = rng.standard_normal((s.experts, s.out_features, 3), np.float32)
        parts.append(Delta(module=f"{name}.{part}", a=a, b=b, scale=0.1))
    value = np.array(single.tensor("model.layers.2.mlp.experts.gate_up_proj")) * 2
    saved = Replacement(name="model.layers.2.mlp.experts.gate_up_proj", value=value)
    adapter = Adapter(deltas=tuple(parts), replacements=(saved,))
    outs = []
    for base, target in ((single, "one"), (fused, "two")):
        merge(base, [(adapter, 0.5)], tmp_path / target)
        outs.append(Base.open(tmp_path / target))
    for part in parts:
        expected = single.weight(part.module) + 0.05 * part.b @ part.a
        for out in outs:
            np.testing.assert_allclose(out.weight(part.module), expected, atol=1e-5)
    for out in outs:
        assert np.array_equal(out.tensor(saved.name), value)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_unmerge_gives_the_base_back_to_within_rounding(dtype, tmp_path):
    base = Base.open(recast(GEMMA, tmp_path / "base", dtype))
    pair = [
        (read_adapter(TRUTH / f"peft/gemma3/{name}"), s)
        for name, s in [("plain", 0.7), ("rslora", -0.3)]
    ]
    merge(base, pair, tmp_path / "merged")
    merged = Base.open(tmp_path / "merged")
    report = unmerge(merged, pair, tmp_path / "out")
    for name, value in stored(tmp_path / "out").items():
        before = base.tensors[name].astype(np.float64)
        if name not in report.changed:
            assert value.tobytes() == base.tensors[name].tobytes()
            continue
        near = ulp(before, dtype) + ulp(merged.tensors[name].astype(np.float64), dtype) + 1e-7
        assert (np.abs(value.astype(np.float64) - before) <= near).all(), name


def test_an_untied_merge_is_unmerged_and_stays_untied(tmp_path):
    base = Base.open(GEMMA)
    pair = [(read_adapter(TRUTH / "peft/gemma3/embed_only"), 1.0)]
    adapter = replace(pair[0][0], replacements=())
    merge(base, [(adapter, 1.0)], tmp_path / "merged")
    report = unmerge(Base.open(tmp_path / "merged"), [(adapter, 1.0)], tmp_path / "out")
    out = Base.open(tmp_path / "out")
    assert not out.decoder.tied
    assert not report.added
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        np.testing.assert_allclose(out.tensors[name], base.tensor(name), atol=1e-6)
    with pytest.raises(MismatchError, match="does not come from"):
        unmerge(base, [(adapter, 1.0)], tmp_path / "not", force=True)


def test_what_a_merge_does_not_keep_cannot_be_unmerged(tmp_path):
    base = Base.open(GEMMA)
    for case in ("dora", "norm_save"):
        adapter = read_adapter(TRUTH / f"peft/gemma3/{case}")
        with pytest.raises(UnsupportedError, match="cannot be undone") as caught:
            unmerge(base, [(adapter, 1.0)], tmp_path / "out", force=True)
        assert caught.value.items
        report = unmerge(base, [(adapter, 0.0)], tmp_path / case, force=True)  # was never active
        assert not report.changed


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path):
    base = Base.open(LLAMA)
    out = tmp_path / "out"
    plain = read_adapter(TRUTH / "peft/llama/plain")
    with pytest.raises(UnsupportedError, match="aLoRA"):
        merge(base, [(read_adapter(TRUTH / "peft/llama/alora"), 1.0)], out)
    with pytest.raises(MismatchError):
        merge(base, [(read_adapter(TRUTH / "peft/gemma3/plain"), 1.0)], out)
    with pytest.raises(ParameterError, match="finite"):
        merge(base, [(plain, float("nan"))], out)
    with pytest.raises(ParameterError, match="dtype"):
        merge(base, [(plain, 1.0)], out, dtype="f8")
    norm = [
        Replacement(name="model.norm.weight", value=np.full(base.decoder.hidden, v, np.float32))
        for v in (1, 2)
    ]
    one, other = (Adapter(replacements=(r,)) for r in norm)
    with pytest.raises(UnsupportedError, match="more than once"):
        merge(base, [(one, 1.0), (other, 1.0)], out)
    assert not out.exists()
    merge(base, [(one, 1.0), (one, 0.5), (other, 0.0)], out)
    assert (stored(out)["model.norm.weight"] == 1).all()
    with pytest.raises(ParameterError, match="exists"):
        merge(base, [(plain, 1.0)], out)
    with pytest.raises(ParameterError, match="exists"):
        merge(base, [(plain, 1.0)], base.path)


def test_values_that_do_not_fit_are_all_named_and_nothing_stays(tmp_path):
    base = Base.open(LLAMA)
    n_out, n_in = base.tensors[f"{Q}.weight"].shape
    modules = (Q, Q.replace("layers.0", "layers.1"))
    adapter = Adapter(deltas=tuple(delta(module, n_in, n_out) for module in modules))
    with pytest.raises(AdapterError, match="not be finite") as caught:
        merge(base, [(adapter, 1e8)], tmp_path / "out", dtype="f16")
    assert [item.split(".weight")[0] for item in caught.value.items] == list(modules)
    assert "float16" in caught.value.items[0]
    assert list(tmp_path.iterdir()) == []
    merge(base, [(adapter, 1e8)], tmp_path / "out", dtype="bf16")


def test_only_known_files_come_along(tmp_path):
    folder = recast(LLAMA, tmp_path / "base", np.float32)
    for name in ("modeling_x.py", "pytorch_model.bin", "README.md", "LICENSE", "notes.txt"):
        (folder / name).write_text(name)
    (folder / "onnx").mkdir()
    report = merge(
        Base.open(folder), [(read_adapter(TRUTH / "peft/llama/plain"), 1.0)], tmp_path / "out"
    )
    assert set(report.left) == {
        "modeling_x.py",
        "pytorch_model.bin",
        "README.md",
        "notes.txt",
        "onnx",
    }
    assert (tmp_path / "out/LICENSE").read_text() == "LICENSE"
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert "tokenizer.json" in report.along


def test_progress_ends_at_the_total(tmp_path):
    seen = []
    merge(
        Base.open(LLAMA),
        [(read_adapter(TRUTH / "peft/llama/plain"), 1.0)],
        tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
