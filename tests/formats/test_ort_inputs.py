"""Experts and embeddings in .onnx_adapter files: the logits that PEFT recorded, and what is refused
for lack of an input."""

import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import lorakit
from folders import DATA
from lorakit import demo
from lorakit.adapter import Adapter, Delta, Site
from lorakit.base.folder import Base
from lorakit.errors import FormatError, UnsupportedError
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert
from lorakit.formats.ort import _serialize, _tied, read_ort, write_ort
from lorakit.merge import merge

TRUTH = DATA / "truth"
EXPERTS = TRUTH / "llama_cpp/qwen3_moe_experts"
CASES = ["experts", "peft/gemma3/embed_tied", "peft/gemma3/embed_only", "peft/llama/embed_lmhead"]


@pytest.fixture(scope="module")
def experts_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "qwen3_moe"
    merge(TRUTH / "llama_cpp/qwen3_moe/base.f32.gguf", [], folder)
    shutil.copy(TRUTH / "bases/llama/tokenizer.json", folder)  # any: the tests speak in ids
    return folder


def case_of(name, experts_base):
    """An adapter, its base, and what PEFT recorded: ids and logits."""
    if name == "experts":
        with np.load(EXPERTS / "logits.npz") as known:
            return EXPERTS, experts_base, known["ids"], known["adapted"]
    with np.load(TRUTH / name / "logits.npz") as known:
        ids, logits = known["ids1"], known["scale1_1"]
    return TRUTH / name, TRUTH / "bases" / name.split("/")[1], ids, logits


def error_of(base, adapter, ids, expected):
    """The largest difference from the recorded logits, on the default engine."""
    with lorakit.open(base, threads=1) as model:
        model.load_adapter(adapter, "case")
        return np.abs(model.logits(ids.tolist(), adapters={"case": 1.0}) - expected).max()


@pytest.mark.parametrize("name", CASES)
def test_it_comes_back_and_runs_with_pefts_logits(name, experts_base, tmp_path):
    adapter, base, ids, expected = case_of(name, experts_base)
    path = tmp_path / "a.onnx_adapter"
    with pytest.raises(UnsupportedError, match="--base"):
        convert(adapter, path, to="ort")
    convert(adapter, path, to="ort", base=Base.open(base))
    opened = Base.open(base)
    before, after = (read_adapter(file, opened.decoder) for file in (adapter, path))
    assert [(d.module, d.site) for d in after.deltas] == [(d.module, d.site) for d in before.deltas]
    assert error_of(base, path, ids, expected) < 2e-4


BROKEN = {
    "the next expert's factors": ("experts", ".experts.", lambda a: np.roll(a, 1, axis=0)),
    "an embedding's factor the wrong way round": (
        "peft/llama/embed_lmhead",
        ".lora_embedding_A",
        lambda a: np.ascontiguousarray(a[::-1]),
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_says_something_else_would_show(how, experts_base, tmp_path):
    """The broken variants: the same shapes, other values."""
    name, part, change = BROKEN[how]
    adapter, base, ids, expected = case_of(name, experts_base)
    path = tmp_path / "a.onnx_adapter"
    convert(adapter, path, to="ort", base=Base.open(base))
    tensors = dict(onnxruntime_tensors(path))
    assert any(part in key for key in tensors)
    path.write_bytes(
        _serialize({k: change(v) if part in k and "_A" in k else v for k, v in tensors.items()})
    )
    assert error_of(base, path, ids, expected) > 5e-3


def onnxruntime_tensors(path):
    """As onnxruntime's own reader finds them."""
    file = onnxruntime.AdapterFormat.read_adapter(str(path))
    return {name: value.numpy().copy() for name, value in file.get_parameters().items()}


def test_names_and_shapes(experts_base, tmp_path):
    """Of experts an axis in front; of an embedding PEFT's names, turned as those of linears are."""
    for name, module, ends, shapes in (
        ("experts", "model.layers.1.mlp.experts.down_proj", (".lora_A.weight", ".lora_B.weight"),
         lambda d: ((len(d.a), d.in_features, d.rank), (len(d.a), d.rank, d.out_features))),
        ("peft/gemma3/embed_tied", "model.embed_tokens", (".lora_embedding_A", ".lora_embedding_B"),
         lambda d: ((d.in_features, d.rank), (d.rank, d.out_features))),
    ):  # fmt: skip
        adapter, base, _, _ = case_of(name, experts_base)
        opened = Base.open(base)
        path = tmp_path / name.replace("/", ".")
        convert(adapter, path, to="ort", base=opened)
        found = onnxruntime_tensors(path)
        (delta,) = (d for d in read_adapter(adapter, opened.decoder).deltas if d.module == module)
        assert tuple(found[module + end].shape for end in ends) == shapes(delta)


def test_a_tied_head_has_the_embeddings_factors_exchanged(tmp_path, monkeypatch):
    """Without that rule it would come back as two deltas, and not be written."""
    base = Base.open(TRUTH / "bases/gemma3")
    adapter = read_adapter(TRUTH / "peft/gemma3/embed_tied", base.decoder)
    write_ort(adapter, tmp_path / "a", decoder=base.decoder)
    found = onnxruntime_tensors(tmp_path / "a")
    table = found["model.embed_tokens.lora_embedding_A"]
    np.testing.assert_array_equal(found["lm_head.lora_B.weight"], table.T)
    monkeypatch.setattr("lorakit.formats.ort._tied", lambda deltas: tuple(deltas.values()))
    assert {d.module for d in read_ort(tmp_path / "a").deltas} > {"lm_head"}
    with pytest.raises(UnsupportedError, match="read this adapter differently"):
        write_ort(adapter, tmp_path / "b", decoder=base.decoder)


def test_factors_that_differ_stay_two_deltas():
    a, b = np.ones((2, 5), np.float32), np.ones((3, 2), np.float32)
    table = Delta(module="model.embed_tokens", a=a, b=b, scale=1.0, site=Site.INPUT)
    head = Delta(module="lm_head", a=b.T, b=a.T * 2, scale=1.0)
    for found, count in ((head, 2), (replace(head, b=a.T), 1)):
        assert len(_tied({(d.module, d.site): d for d in (table, found)})) == count


def test_what_no_graph_has_inputs_for_is_named(tmp_path):
    """A table of positions, the head's side of an embedding alone, and two deltas of one head."""
    gpt2, gemma = (Base.open(DATA / "families/gpt2"), Base.open(TRUTH / "bases/gemma3"))
    for base, deltas, said in (
        (gpt2, [(Site.INPUT, "transformer.wpe")], "transformer.wpe: an embedding of positions"),
        (gemma, [(Site.OUTPUT, "model.embed_tokens")], "a delta of lm_head says that"),
        (gemma, [(Site.BOTH, "model.embed_tokens"), (Site.LINEAR, "lm_head")], "another delta of"),
    ):
        shapes = base.decoder.modules()
        made = []
        for site, module in deltas:
            sizes = [shapes[module].in_features, shapes[module].out_features]
            n_in, n_out = sizes[::-1] if site is Site.OUTPUT else sizes
            a, b = np.ones((2, n_in), np.float32), np.ones((n_out, 2), np.float32)
            made.append(Delta(module=module, a=a, b=b, scale=1.0, site=site))
        with pytest.raises(UnsupportedError, match=said):
            write_ort(Adapter(deltas=tuple(made)), tmp_path / "a", decoder=base.decoder)


def test_an_export_takes_what_its_graph_has_inputs_for(tmp_path):
    for mode in ("dynamic", "merged"):
        lorakit.export(demo.base_path(), tmp_path / mode, to="onnx", mode=mode, quantize="none")
    export = Base.open(tmp_path / "dynamic")
    whole = Base.open(demo.base_path())
    convert(demo.adapter_path("home"), tmp_path / "home", to="ort", base=export)
    with lorakit.open(tmp_path / "dynamic", threads=1) as model:
        model.load_adapter(tmp_path / "home", "home")
        plain, adapted = (model.logits([1, 2, 3], adapters=a) for a in ({}, {"home": 1.0}))
        assert np.abs(adapted - plain).max() > 0.5
    rng = np.random.default_rng(0)
    sizes = whole.decoder.modules()["model.embed_tokens"]
    table = Delta(
        module="model.embed_tokens",
        a=rng.standard_normal((2, sizes.in_features), np.float32),
        b=rng.standard_normal((sizes.out_features, 2), np.float32),
        scale=1.0,
        site=Site.BOTH,
    )
    home = read_adapter(demo.adapter_path("home"), whole.decoder)
    write_ort(replace(home, deltas=(*home.deltas, table)), tmp_path / "both", decoder=whole.decoder)
    with pytest.raises(UnsupportedError, match=r"model\.embed_tokens: an embedding"):
        convert(tmp_path / "both", tmp_path / "c", to="ort", base=export)
    report = convert(tmp_path / "both", tmp_path / "d", to="ort", base=export, lossy=True)
    assert report.dropped[0].startswith("model.embed_tokens: ")
    assert read_adapter(tmp_path / "d").modules == home.modules
    with pytest.raises(UnsupportedError, match="without inputs for adapters"):
        convert(tmp_path / "home", tmp_path / "e", to="ort", base=Base.open(tmp_path / "merged"))


def test_a_file_whose_parts_disagree_is_refused(tmp_path):
    ones = np.ones((3, 2), np.float32)
    for tensors, said in (
        ({"e.lora_embedding_A": ones}, "has only A"),
        ({"e.lora_embedding_A": ones, "e.lora_embedding_B": ones}, "expected \\[in, r\\]"),
        ({"x.lora_A.weight": np.ones((2, 3, 2), np.float32),
          "x.lora_B.weight": np.ones((3, 2, 3), np.float32)}, "axis for experts"),
        ({"x.lora_A.weight": np.ones((2, 3, 2), np.float32), "x.lora_B.weight": ones.T},
         "axis for experts"),
    ):  # fmt: skip
        (tmp_path / "a").write_bytes(_serialize(tensors))
        with pytest.raises(FormatError, match=said):
            read_ort(tmp_path / "a")
