"""GGUF files of every family: what llama.cpp computes of them, and what its converter wrote."""

from dataclasses import replace

import numpy as np
import pytest

from folders import DATA
from gguf_bases import FAMILIES, IDS, arrays, logits, make_base, model_of, written
from llama_library import need_llama
from lorakit.adapter import Adapter, Delta
from lorakit.base.folder import Base
from lorakit.exporting.gguf import architecture, write_gguf
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import packed
from lorakit.formats import read_adapter
from lorakit.formats.gguf.names import permuted
from lorakit.formats.gguf.places import places
from lorakit.merge import merge
from lorakit.merge.gguf import tensors
from lorakit.merge.gguf.tensors import sources
from lorakit.merge.view import merged_view

TRUTH = DATA / "truth"
NEAR = 2e-3  # of logits; ggml looks GELU up in a table of float16, and GPT-2 has no gate beside it


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of families, made once."""
    place = tmp_path_factory.mktemp("bases")
    return lambda name: (
        place / name if (place / name).exists() else make_base(place / name, FAMILIES[name])
    )


def torch_logits(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype="float32"
    ).eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_computes_what_transformers_does(bases, tmp_path, name):
    need_llama()
    right = torch_logits(bases(name))
    found = logits(written(bases(name), tmp_path / "m.gguf"))
    assert right.std() > 0.2
    assert np.abs(found - right).max() < NEAR
    assert np.array_equal(found.argmax(axis=1), right.argmax(axis=1))


def without(*keys):
    """A change of a model that leaves keys out, or all tensors of which these are a part."""

    def change(model, _):
        kept = {k: v for k, v in model.keys.items() if not any(part in k for part in keys)}
        named = {n: t for n, t in model.tensors.items() if not any(part in n for part in keys)}
        return replace(model, keys=kept, tensors=named)

    return change


def patched(name, made):
    """A change of how tensors are made."""

    def change(model, monkeypatch):
        monkeypatch.setattr(tensors, name, made)

    return change


def exchanged(first, second):
    """A change that gives two tensors of a kind each other's values."""
    other = {first: second, second: first}

    def change(model, _):
        swap = {n: ".".join(other.get(part, part) for part in n.split(".")) for n in model.tensors}
        return replace(model, tensors={name: model.tensors[swap[name]] for name in swap})

    return change


def said(key, value):
    return lambda model, _: replace(model, keys={**model.keys, key: value})


BROKEN = {
    "norms without 1": ("gemma3", patched("_shifted", lambda b, p, o: tensors._rows(b, p))),
    "local RoPE base": ("gemma3", without("rope.freq_base_swa")),
    "global RoPE base": ("gemma3", said("gemma3.rope.freq_base", Value("f32", 10000.0))),
    "windows": ("gemma3", without("attention.sliding_window")),
    "pattern of windows": ("gemma3 other layers", without("window_pattern")),
    "linear factor": ("gemma3 other layers", without("rope.scaling.factor")),
    "soft cap": ("gemma3 other layers", without("final_logit_softcapping")),
    "head": ("gemma3 other layers", exchanged("output", "token_embd")),
    "rows of q and k": ("llama", patched("_permuted", tensors._rows)),
    "KV heads": ("llama wide heads", patched(
        "permuted", lambda rows, heads, axis: permuted(rows, 2, axis)
    )),
    "biases": ("llama", without("attn_q.bias")),
    "bias of the MLP": ("llama", without("ffn_up.bias")),
    "Llama 3's factors": ("llama 3", without("rope_freqs")),
    "experts": ("qwen3 experts", exchanged("ffn_gate_exps", "ffn_up_exps")),
    "norms of q and k": ("qwen3", exchanged("attn_q_norm", "attn_k_norm")),
    "RoPE base": ("qwen2", without("rope.freq_base")),
    "yarn's factor": ("qwen2 yarn", said("qwen2.rope.scaling.factor", Value("f32", 1.0))),
    "yarn's original context": (
        "qwen2 yarn", said("qwen2.rope.scaling.original_context_length", Value("u32", 4096))
    ),
    "rotated part": ("phi3 long", without("rope.dimension_count", "rope_factors")),
    "Phi's factors": ("phi3 long", exchanged("rope_factors_long", "rope_factors_short")),
    "factor of attention": ("phi3 long", without("attn_factor")),
    "original context": ("phi3 long", said(
        "phi3.rope.scaling.original_context_length", Value("u32", 8)
    )),
    "matrices turned over": ("gpt2", patched(
        "_rows", lambda b, p: iter([np.atleast_2d(b.tensor(p.parameter)).reshape(
            -1, p.shape[-1]
        )])
    )),
    "epsilon": ("gpt2", said("gpt2.attention.layer_norm_epsilon", Value("f32", 0.1))),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_without_any_of_it_llama_cpp_computes_something_else(bases, tmp_path, monkeypatch, case):
    need_llama()
    name, change = BROKEN[case]
    model = model_of(bases(name))
    right = logits(written(bases(name), tmp_path / "right.gguf"))
    broken = change(model, monkeypatch) or model_of(bases(name))
    found = logits(write_gguf(broken, tmp_path / "m.gguf", "F32")[0])
    assert np.abs(found - right).max() > 5 * NEAR


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_the_file_is_the_one_that_llama_cpps_converter_wrote(tmp_path, name):
    path = written(TRUTH / "bases" / name, tmp_path / "m.gguf")
    ours, theirs = (
        open_gguf(file, model=True, vocabulary=True)
        for file in (path, TRUTH / f"gguf/{name}.base.f32.gguf")
    )
    assert {n: (t.kind, t.shape, t.raw.tobytes()) for n, t in ours.tensors.items()} == {
        n: (t.kind, t.shape, t.raw.tobytes()) for n, t in theirs.tensors.items()
    }
    own = {"general.name", "general.size_label", "tokenizer.chat_template"}
    for key in theirs.stored.keys() - own:
        assert ours.stored[key] == theirs.stored[key], key
    more = {"rope.dimension_count", "vocab_size", "add_bos_token", "add_eos_token"}
    assert {key.split(".", 1)[1].removeprefix("ggml.") for key in ours.stored} - {
        key.split(".", 1)[1].removeprefix("ggml.") for key in theirs.stored
    } <= more


@pytest.mark.parametrize("name", ["gpt2", "phi3", "qwen3_moe"])
def test_the_converters_tensors_and_keys_come_back(tmp_path, name):
    """Files without a tokenizer, made a folder and made a file again."""
    theirs = open_gguf(TRUTH / f"llama_cpp/{name}/base.f32.gguf", model=True)
    merge(theirs.path, [], tmp_path / "folder")
    base = Base.open(tmp_path / "folder")
    found = sources(base)
    assert found.keys() == theirs.tensors.keys()
    for tensor, source in found.items():
        values = np.concatenate([np.array(block) for block in source.blocks()])
        assert source.shape == theirs.tensors[tensor].shape
        assert np.array_equal(values.reshape(source.shape), theirs.tensors[tensor].array())
    ours = architecture.keys(base.decoder, base.config)
    below = {key for key in theirs.values if key.startswith(f"{base.decoder.architecture.gguf}.")}
    assert {key: packed(ours[key]) for key in below} == {key: theirs.stored[key] for key in below}


@pytest.mark.parametrize("name", FAMILIES)
def test_merge_makes_the_same_folder_of_it(bases, tmp_path, name):
    """Gemma's norms are stored with a 1 added, which rounds them: equal where it is added again."""
    merge(written(bases(name), tmp_path / "m.gguf"), [], tmp_path / "back")
    before, after = Base.open(bases(name)), Base.open(tmp_path / "back")
    assert replace(after.decoder, architecture=before.decoder.architecture) == before.decoder
    for parameter in before.decoder.parameters():
        one = np.float32(before.decoder.architecture.norm_offset if "norm" in parameter else 0)
        assert np.array_equal(after.tensor(parameter) + one, before.tensor(parameter) + one)


def test_every_parameter_has_a_place(bases):
    for name in FAMILIES:
        decoder = Base.open(bases(name)).decoder
        held = sum(np.prod(place.shape) for place in places(decoder))
        assert held == sum(np.prod(shape) for shape in decoder.parameters().values())


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_merged_adapters_are_those_of_merge(tmp_path, name):
    base = Base.open(TRUTH / "bases" / name)
    adapters = [
        (read_adapter(TRUTH / f"peft/{name}/plain"), 0.5),
        (read_adapter(TRUTH / f"peft/{name}/dora"), 1.0),
    ]
    merge(base, adapters, tmp_path / "merged", dtype="f32")
    theirs = arrays(written(tmp_path / "merged", tmp_path / "theirs.gguf"))
    ours = arrays(written(merged_view(base, adapters), tmp_path / "ours.gguf"))
    before = arrays(written(base, tmp_path / "before.gguf"))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert np.array_equal(ours[key], theirs[key]), key
    assert any(not np.array_equal(ours[key], before[key]) for key in before)


def test_experts_that_an_adapter_changes_are_stacked(bases, tmp_path):
    base, module = Base.open(bases("qwen3 experts")), "model.layers.1.mlp.experts.up_proj"
    rng = np.random.default_rng(0)
    delta = Delta(
        module=module,
        a=rng.standard_normal((4, 2, 64)).astype(np.float32),
        b=rng.standard_normal((4, 32, 2)).astype(np.float32),
        scale=0.5,
    )
    view = merged_view(base, [(Adapter(deltas=(delta,)), 1.0)])
    found = arrays(written(view, tmp_path / "m.gguf"))
    before = arrays(written(base, tmp_path / "before.gguf"))
    changed = {name for name in before if not np.array_equal(before[name], found[name])}
    assert changed == {"blk.1.ffn_up_exps.weight"}
    change = found["blk.1.ffn_up_exps.weight"] - before["blk.1.ffn_up_exps.weight"]
    assert np.allclose(change, 0.5 * delta.b @ delta.a, atol=1e-5)
