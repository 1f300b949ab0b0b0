"""Adapters merged into a GGUF file: what llama.cpp cannot apply at run time gives PEFT's logits."""

import json

import numpy as np
import pytest

import lorakit
import lorakit.merge.gguf.file as file_module
from commands import invoke
from folders import DATA
from gguf_bases import FAMILIES, make_base, written
from llama_library import need_llama
from lorakit import AdapterConfig
from lorakit.adapter import Adapter, Delta, Magnitude, Replacement
from lorakit.base.folder import Base
from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama.quantize import quantize
from lorakit.errors import AdapterError, CapabilityError, MismatchError, UnsupportedError
from lorakit.files.gguf import open_gguf
from lorakit.files.gguf_parts import part_name
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.merge.cached import MergedAdapter, merge_notes, merged_base
from lorakit.merge.gguf import tensors
from lorakit.merge.gguf.file import merged_file

need_llama()

TRUTH = DATA / "truth"
ADDED = DATA / "added/gemma3/ms_embed"
FILES = {name: TRUTH / f"gguf/{name}.base.f32.gguf" for name in ("gemma3", "llama")}
NEAR = {"gemma3": 4e-3, "llama": 2e-4}  # most of Gemma's is ggml's table for GELU
CASES = [
    *(f"gemma3/{name}" for name in ("dora", "norm_save", "embed_only", "embed_tied", "plain")),
    *(f"llama/{name}" for name in ("dora", "embed_lmhead", "trainable_tokens", "rslora", "plain")),
]


def merged(path, *adapters, brought=()):
    """The base with adapters in it, and what there is to say of it. adapters: with scales."""
    base = open_gguf_base(path)
    pairs = [
        (adapter, MergedAdapter(name="x", source="x", scale=scale, digest=adapter.digest))
        for adapter, scale in adapters
    ]
    return merged_base(base, pairs, brought=brought), merge_notes(base, pairs, brought)


def logits(path, *ids, **options):
    with lorakit.open(path, threads=1, **options) as model:
        return [np.array(model.logits(list(map(int, each)))) for each in ids]


def case_of(name):
    family = name.split("/")[0]
    path = TRUTH / "peft" / name
    adapter = read_adapter(path, open_gguf_base(FILES[family]).decoder)
    with np.load(path / "logits.npz") as known:
        return family, adapter, dict(known)


def error_of(name):
    """How far a merge at each recorded scale is from what PEFT recorded."""
    family, adapter, known = case_of(name)
    worst = 0.0
    for scale in (1.0, 0.5):
        keys = [n for n in range(3) if f"scale{scale:g}_{n}" in known]
        base, _ = merged(FILES[family], (adapter, scale))
        found = logits(base.path, *(known[f"ids{n}"] for n in keys))
        for n, each in zip(keys, found, strict=True):
            worst = max(worst, float(np.abs(each - known[f"scale{scale:g}_{n}"]).max()))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_it_has_pefts_logits(name, cache):
    assert error_of(name) < NEAR[name.split("/")[0]]


def unpermuted(monkeypatch):
    monkeypatch.setattr(tensors, "_permuted", tensors._rows)


def without_magnitudes(monkeypatch):
    view = file_module.merged_view

    def plain(base, adapters):
        return view(base, [(Adapter(deltas=a.deltas), s) for a, s in adapters])

    monkeypatch.setattr(file_module, "merged_view", plain)


def tied_as_before(monkeypatch):
    """Nothing becomes a tensor of its own."""
    outputs = file_module._outputs
    monkeypatch.setattr(
        file_module,
        "_outputs",
        lambda file, *rest: (o for o in outputs(file, *rest) if o.name in file.tensors),
    )


BROKEN = {
    "rows of q and k as the folder has them": ("llama/plain", unpermuted),
    "no magnitudes": ("gemma3/dora", without_magnitudes),
    "no head of its own": ("gemma3/embed_only", tied_as_before),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_merge_that_says_something_else_would_show(how, cache, monkeypatch):
    name, broken = BROKEN[how]
    broken(monkeypatch)
    assert error_of(name) > 10 * NEAR[name.split("/")[0]]


def experts_case(tmp_path):
    path = TRUTH / "llama_cpp/qwen3_moe/base.f32.gguf"
    base = open_gguf_base(path)
    rng = np.random.default_rng(0)
    deltas, magnitudes = [], []
    for module, shape in base.decoder.modules().items():
        if shape.embedding or module == "lm_head":
            continue
        axes = (shape.experts,) if shape.experts else ()
        a = rng.standard_normal((*axes, 2, shape.in_features), np.float32)
        b = rng.standard_normal((*axes, shape.out_features, 2), np.float32) * np.float32(0.3)
        deltas.append(Delta(module=module, a=a, b=b, scale=0.7))
        if "self_attn" in module:
            sizes = rng.random(shape.out_features, np.float32) + 1
            magnitudes.append(Magnitude(module=module, value=sizes))
    return path, Adapter(deltas=tuple(deltas), magnitudes=tuple(magnitudes))


def test_experts_beside_dora_are_merged_as_into_a_folder(tmp_path, cache):
    path, adapter = experts_case(tmp_path)
    found, _ = merged(path, (adapter, 1.0))
    merge(path, [(adapter, 1.0)], tmp_path / "folder")
    ours, theirs = open_gguf(found.path, model=True).tensors, Base.open(tmp_path / "folder")
    stacked = ours["blk.1.ffn_down_exps.weight"].array()
    np.testing.assert_array_equal(stacked, theirs.weight("model.layers.1.mlp.experts.down_proj"))
    query = ours["blk.0.attn_q.weight"].array()
    np.testing.assert_array_equal(query, theirs.weight("model.layers.0.self_attn.q_proj"))
    assert not np.array_equal(
        query, open_gguf(path, model=True).tensors["blk.0.attn_q.weight"].array()
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A Llama of rows that K-quants take, in F32 and in two types of few bits."""
    folder = tmp_path_factory.mktemp("quantised")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
    base = make_base(folder / "base", FAMILIES["llama"] | sizes | {"attention_bias": False})
    whole = written(base, folder / "whole.gguf")
    for kind in ("Q8_0", "Q4_0", "F16"):
        quantize(whole, folder / f"{kind}.gguf", type=kind)
    return folder


def plain_for(path, modules=("q_proj", "down_proj"), size=0.05):
    rng, deltas = np.random.default_rng(1), []
    for module, shape in open_gguf_base(path).decoder.modules().items():
        if module.endswith(modules):
            a = rng.standard_normal((4, shape.in_features), np.float32)
            b = rng.standard_normal((shape.out_features, 4), np.float32) * np.float32(size)
            deltas.append(Delta(module=module, a=a, b=b, scale=1.0))
    return Adapter(deltas=tuple(deltas))


IDS = [1, 270, 31, 5, 499, 70, 300, 11]


def effect_and_error(path, adapter, found):
    """What an adapter does at run time, and by how much a merged file does something else."""
    with lorakit.open(path, threads=1) as model:
        before = np.array(model.logits(IDS))
        model.load_adapter(adapter, "x")
        right = np.array(model.logits(IDS, adapters={"x": 1.0}))
    (ours,) = logits(found, IDS)
    return np.abs(right - before).mean(), np.abs(ours - right).mean()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_tensors_of_few_bits_become_f16_where_they_change(kind, small, cache, monkeypatch):
    path = small / f"{kind}.gguf"
    adapter = plain_for(path)
    base, notes = merged(path, (adapter, 1.0))
    before, after = (open_gguf(file, model=True).tensors for file in (path, base.path))
    for name, tensor in before.items():
        is_changed = name.endswith(("attn_q.weight", "ffn_down.weight"))
        assert after[name].kind == ("F16" if is_changed else tensor.kind), name
        if not is_changed:
            assert np.array_equal(after[name].raw, tensor.raw)
    assert list(after) == list(before)
    assert any(f"4 of {kind}" in note for note in notes)
    effect, error = effect_and_error(path, adapter, base.path)
    assert error < 0.04 * effect  # the engine rounds what few bits multiply, too


def test_rounded_to_few_bits_again_it_would_lose_the_adapter(small, cache, tmp_path, monkeypatch):
    """The broken variant: each changed tensor in the type that it had."""
    path, name = small / "Q8_0.gguf", "blk.0.ffn_down.weight"
    adapter = plain_for(path, size=0.0005)
    (delta,) = (d for d in adapter.deltas if d.module == "model.layers.0.mlp.down_proj")
    before = open_gguf(path, model=True).tensors[name].array()
    lost = []
    for kind in ("F16", "Q8_0"):
        if kind == "Q8_0":
            monkeypatch.setattr(file_module, "PLAIN", file_module.PLAIN | {kind: None})
        plan = merged_file(open_gguf_base(path), [(adapter, 1.0)])
        plan.write(tmp_path / kind)
        found = open_gguf(tmp_path / kind, model=True).tensors[name]
        assert found.kind == kind
        lost.append(np.linalg.norm(found.array() - before - delta.b @ delta.a))
    effect = np.linalg.norm(delta.b @ delta.a)
    assert lost[0] < 0.05 * effect
    assert lost[1] > 0.3 * effect


def test_other_keys_stay_and_a_record_comes(cache):
    _, adapter, _ = case_of("gemma3/dora")
    base, notes = merged(FILES["gemma3"], (adapter, 0.5))
    before, after = (open_gguf(file, model=True) for file in (FILES["gemma3"], base.path))
    (note,) = notes
    assert "in the weights of a copy of gemma3.base.f32.gguf" in note
    assert {k: bytes(v) for k, v in before.stored.items()} == {
        k: bytes(v) for k, v in after.stored.items() if k != "lorakit.merge"
    }
    record = json.loads(after.values["lorakit.merge"].data)
    assert record["adapters"] == [{"digest": adapter.digest, "scale": 0.5}]
    assert record["base"] == open_gguf_base(FILES["gemma3"]).fingerprint


def test_one_file_for_one_base_and_set_of_adapters(cache):
    _, adapter, _ = case_of("llama/plain")
    paths = [merged(FILES["llama"], (adapter, scale))[0].path for scale in (1.0, 0.5, 1.0)]
    assert paths[0] == paths[2] != paths[1]
    time = paths[0].stat().st_mtime_ns
    content = bytearray(paths[0].read_bytes())
    content[-1] ^= 0x40
    paths[0].write_bytes(content)
    again = merged(FILES["llama"], (adapter, 1.0))[0].path
    assert again == paths[0]
    assert again.read_bytes() != bytes(content)
    assert again.stat().st_mtime_ns != time


def test_several_parts_become_one_file(tmp_path, cache):
    base = make_base(tmp_path / "base", FAMILIES["llama"] | {"attention_bias": False})
    first = written(base, tmp_path / "m.gguf", split_size=100_000)
    assert first.name.startswith(part_name("m", 1, 2)[:7])
    adapter = plain_for(first)
    found, _ = merged(first, (adapter, 1.0))
    assert found.path.name == "m.gguf"
    whole = written(base, tmp_path / "whole.gguf")
    for ours, theirs in zip(
        logits(found.path, IDS), logits(merged(whole, (adapter, 1.0))[0].path, IDS), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_bias_of_b_where_the_graph_takes_one(tmp_path, cache):
    """Llama's does, and Gemma's does not: its file would not load."""
    rng = np.random.default_rng(2)
    for family, well in (("llama", True), ("gemma3", False)):
        config = FAMILIES[family] | {"attention_bias": False, "mlp_bias": False}
        path = written(make_base(tmp_path / family, config), tmp_path / f"{family}.gguf")
        (delta, *_) = plain_for(path, ("layers.0.self_attn.q_proj",)).deltas
        bias = rng.standard_normal(delta.out_features, np.float32)
        adapter = Adapter(
            deltas=(Delta(module=delta.module, a=delta.a, b=delta.b, scale=1.0, bias=bias),)
        )
        if not well:
            with pytest.raises(UnsupportedError, match="of gemma3 lacks"):
                merged(path, (adapter, 1.0))
            continue
        found, _ = merged(path, (adapter, 1.0))
        with lorakit.open(tmp_path / family, threads=1) as model:
            model.load_adapter(adapter, "x")
            right = np.array(model.logits(IDS, adapters={"x": 1.0}))
        (ours,) = logits(found.path, IDS)
        np.testing.assert_allclose(ours, right, rtol=0, atol=1e-4)


def test_what_cannot_be_merged_is_refused_and_nothing_is_kept(tmp_path, cache):
    _, alora, _ = case_of("llama/alora")
    with pytest.raises(UnsupportedError, match="aLoRA"):
        merged(FILES["llama"], (alora, 1.0))
    with pytest.raises(MismatchError):
        merged(FILES["llama"], (case_of("gemma3/plain")[1], 1.0))
    large = Replacement(name="model.norm.weight", value=np.full(64, np.inf, np.float32))
    with pytest.raises((AdapterError, MismatchError)):
        merged(FILES["llama"], (Adapter(replacements=(large,)), 1.0))
    assert not list(cache.glob("merged/*/*.gguf"))


class TestOpening:
    def test_it_is_said_and_gives_pefts_logits(self, cache):
        choice = AdapterConfig(TRUTH / "peft/gemma3/dora", mode="merge", scale=0.5)
        _, _, known = case_of("gemma3/dora")
        with lorakit.open(FILES["gemma3"], adapter=choice, threads=1) as model:
            assert model.base.path.is_relative_to(cache)
            assert [(m.name, m.scale) for m in model.merged] == [("dora", 0.5)]
            (warning,) = model.warnings
            assert warning.code == "adapter_merged"
            assert "dora at 0.5: in the weights of a copy" in warning.message
            found = model.logits(known["ids1"].tolist())
            np.testing.assert_allclose(found, known["scale0.5_1"], rtol=0, atol=4e-3)

    def test_others_act_at_run_time_beside_it(self, cache):
        dora = AdapterConfig(TRUTH / "peft/llama/dora", mode="merge")
        plain = AdapterConfig(TRUTH / "peft/llama/plain", scale=0.0)
        with lorakit.open(FILES["llama"], adapter=[dora, plain], threads=1) as model:
            off = np.array(model.logits(IDS))
            on = np.array(model.logits(IDS, adapters={"plain": 1.0}))
        assert np.abs(on - off).max() > 0.1
        (merged_alone,) = logits(FILES["llama"], IDS, adapter=dora)
        np.testing.assert_array_equal(off, merged_alone)

    def test_what_is_refused_at_run_time_names_the_way(self, cache):
        for path, said in (
            (TRUTH / "peft/gemma3/dora", "a DoRA magnitude"),
            (TRUTH / "peft/gemma3/norm_save", "replacement"),
            (ADDED, "a vocabulary of 514 tokens"),
        ):
            model = lorakit.open(FILES["gemma3"], threads=1)
            with model, pytest.raises(CapabilityError) as caught:
                model.load_adapter(path)
            assert said in str(caught.value)
            assert 'AdapterConfig(path, mode="merge")' in caught.value.hint
            assert "lorakit run --merge" in caught.value.hint
            with lorakit.open(
                FILES["gemma3"], adapter=AdapterConfig(path, mode="merge"), threads=1
            ) as model:
                assert model.merged

    def test_added_tokens_come_along(self, cache):
        choice = AdapterConfig(ADDED, mode="merge")
        with lorakit.open(FILES["gemma3"], adapter=choice, threads=1) as model:
            assert model.encode("<|json|>") == [512]
        codes = {warning.code for warning in model.warnings}
        assert "adapter_merged" in codes
        texts = " ".join(warning.message for warning in model.warnings)
        assert "the vocabulary grew from 512 to 514 tokens" in texts

    def test_a_failure_is_survived_where_it_may_be(self, cache):
        choice = AdapterConfig(TRUTH / "peft/llama/alora", mode="merge", on_error="base")
        with lorakit.open(FILES["llama"], adapter=choice, threads=1) as model:
            assert model.merged == ()
            assert [warning.code for warning in model.warnings] == ["format_unsupported"]

    def test_the_command_line_merges(self, cache):
        args = ("--raw", "--max-tokens", "3", "--temperature", "0", "--threads", "1")
        adapter = f"{TRUTH / 'peft/llama/dora'}:1"
        refused = invoke("run", FILES["llama"], "-a", adapter, "abc", *args)
        assert refused.code == 1
        assert "lorakit run --merge" in str(refused.error or refused)
        done = invoke("run", FILES["llama"], "-a", adapter, "abc", "--merge", *args)
        assert done.code == 0, done
