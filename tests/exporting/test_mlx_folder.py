"""MLX folders without mlx: what is refused, what is said, and that the files hold the values."""

import json
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import lorakit
from exported_cases import FAMILIES, GEMMA, LLAMA, RECORDED, TRUTH, held, recast
from lorakit import demo
from lorakit.adapter import Adapter, Delta, Site
from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.errors import AdapterError, UnsupportedError
from lorakit.exporting.mlx import (
    FORMS,
    dequantised_folder,
    expected_bytes,
    mlx_model_check,
    mlx_notes,
    one_adapter,
    write_apart,
    write_mlx,
)
from lorakit.exporting.mlx.affine import quantise
from lorakit.files.safetensors import write_safetensors
from lorakit.formats import read_adapter
from lorakit.formats.mlx import read_mlx
from lorakit.formats.mlx.base_config import config_faults, misread, mlx_config
from lorakit.merge import merge
from lorakit.merge.view import merged_view

OWN = [*sorted(path.parent for path in FAMILIES.glob("*/config.json")), GEMMA, LLAMA]
BASES = [*OWN, RECORDED / "bases/qwen3_moe", demo.base_path()]
LACKED = ("gemma3_softcap", "qwen2")  # their logits are capped, their heads too wide for mlx-lm


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def of(path, **changes):
    """A base's config with changes, and what it describes."""
    config = json.loads((path / "config.json").read_text()) | changes
    return describe(config), config


ROPE = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
YARN = ROPE | {"rope_type": "yarn", "original_max_position_embeddings": 8}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 4}
CLASHES = [
    ("gemma3_softcap", {}, "capped at 3"),
    ("gemma3_softcap", {"layer_types": ["full_attention", "sliding_attention"] * 2,
                        "num_hidden_layers": 4}, "every n-th layer"),
    ("gemma3_softcap", {"layer_types": ["sliding_attention"] * 3}, "every n-th layer"),
    ("gemma3_softcap", {"hidden_activation": "gelu"}, "activation is gelu"),
    ("gemma3_softcap", {"attention_bias": True}, "biases"),
    ("gemma3_softcap", {"rope_parameters": {"sliding_attention": ROPE}}, "scaled"),
    ("qwen2", {}, "16 wide"),
    ("qwen3", {"attention_bias": True}, "biases"),
    ("qwen3", {"hidden_act": "gelu"}, "activation is gelu"),
    ("qwen3_moe", {"rope_parameters": ROPE}, "scaled"),
    ("qwen3_moe", {"rope_parameters": YARN}, "scaled"),
    ("qwen3", {"rope_parameters": YARN | {"attention_factor": 1.0}}, "1; mlx-lm by 1.06931"),
    ("qwen3", {"rope_parameters": YARN | {"mscale": 0.5}}, "mscale"),
    ("qwen3", {"rope_parameters": YARN | {"truncate": False}}, "between dimensions"),
    ("phi3", {"rope_parameters": LONG | {"short_factor": [1.0] * 4}}, "long_factor"),
    ("gpt2", {"n_inner": 96}, "96 wide"),
    ("gpt2", {"tie_word_embeddings": False}, "head"),
    ("gpt2", {"scale_attn_weights": False}, "root"),
    ("gpt2", {"activation_function": "gelu"}, "activation is gelu"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "said"), CLASHES)
def test_what_mlx_lm_does_not_compute_is_a_fault(family, changes, said):
    assert said in "\n".join(config_faults(*of(FAMILIES / family, **changes)))


def test_the_same_without_the_clash_has_no_fault():
    for family in ("qwen3", "qwen3_moe", "phi3", "gpt2", "llama3_rope", "mistral_window"):
        assert config_faults(*of(FAMILIES / family)) == []
    assert config_faults(*of(FAMILIES / "gemma3_softcap", final_logit_softcapping=None)) == []
    equal = LONG | {"short_factor": [2.0] * 4}
    assert config_faults(*of(FAMILIES / "phi3", rope_parameters=equal)) == []


@pytest.mark.parametrize("family", LACKED)
def test_nothing_is_written_of_what_is_refused(family, out):
    with pytest.raises(UnsupportedError, match="mlx-lm") as raised:
        write_mlx(Base.open(FAMILIES / family), out, "none")
    assert raised.value.items
    assert list(out.iterdir()) == []


def test_a_merge_can_make_a_model_that_mlx_lm_lacks():
    """GPT-2 with a head of its own; checked before any weight is read."""
    base = Base.open(FAMILIES / "gpt2")
    mlx_model_check(base, "none")
    table = base.decoder.embedding
    ones = np.ones((1, base.decoder.vocabulary), "f4"), np.ones((base.decoder.hidden, 1), "f4")
    delta = Delta(module=table, a=ones[0], b=ones[1], scale=1.0, site=Site.INPUT)
    merged = merged_view(base, [(Adapter(deltas=(delta,)), 1.0)])
    with pytest.raises(UnsupportedError, match="head"):
        mlx_model_check(merged, "none")


def test_rows_of_no_whole_group_leave_nothing_to_quantise():
    base = Base.open(FAMILIES / "phi3")
    mlx_model_check(base, "f16")
    with pytest.raises(UnsupportedError, match="groups of 64"):
        mlx_model_check(base, "q4")


def test_float64_has_to_become_another(tmp_path, out):
    base = Base.open(recast(LLAMA, tmp_path / "base", np.float64))
    with pytest.raises(UnsupportedError, match="float64"):
        mlx_model_check(base, "none")
    for form, dtypes in (("f32", {"F32"}), ("q8", {"F32", "U32"})):
        (tmp_path / form).mkdir()
        write_mlx(base, tmp_path / form, form)
        assert {dtype for dtype, _, _ in held(tmp_path / form).values()} == dtypes


def test_values_that_the_dtype_cannot_hold_are_told(tmp_path, out):
    folder = recast(LLAMA, tmp_path / "base", np.float32)
    base = Base.open(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = dict(base.tensors) | {name: np.full(base.tensors[name].shape, 1e6, "f4")}
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as file:
        write_safetensors(file, tensors, {})
    with pytest.raises(AdapterError, match="1e\\+06 is beyond what float16"):
        write_mlx(Base.open(folder), out, "f16")


# What is said of a base.


def test_a_config_says_the_model_in_the_words_of_both():
    for path in BASES:
        base = Base.open(path)
        config = mlx_config(base)
        window = 8 if path.name == "mistral_window" else base.decoder.context
        same = {**base.config, "max_position_embeddings": window}
        assert describe(config) == describe(same if "n_embd" not in config else base.config)
    config = mlx_config(Base.open(FAMILIES / "llama3_rope"))
    assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (500.0, 500.0)
    assert config["rope_scaling"]["rope_type"] == "llama3"
    config = mlx_config(Base.open(GEMMA))
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert (config["sliding_window_pattern"], config["sliding_window"]) == (6, 16)


def test_an_older_config_gets_the_newer_words_as_well(tmp_path):
    folder = recast(LLAMA, tmp_path / "base", np.float16)
    said = json.loads((folder / "config.json").read_text())
    del said["rope_parameters"]
    said |= {"rope_theta": 7e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(said))
    config = mlx_config(Base.open(folder))
    assert config["rope_parameters"] == ROPE | {"rope_theta": 7e4}
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert misread(Base.open(folder)) == []


def test_nothing_in_the_config_makes_mlx_lm_run_a_file(tmp_path, out):
    folder = recast(LLAMA, tmp_path / "base", np.float16)
    said = json.loads((folder / "config.json").read_text())
    said |= {"model_file": "model.py", "auto_map": {"AutoModel": "model.X"}}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "model.py").write_text("raise SystemExit")
    write_mlx(Base.open(folder), out, "none")
    config = json.loads((out / "config.json").read_text())
    assert not {"model_file", "auto_map"} & config.keys()
    assert not (out / "model.py").exists()
    assert (out / "tokenizer.json").read_bytes() == (LLAMA / "tokenizer.json").read_bytes()


MISREAD = {
    "gpt2": ["n_ctx", "transformer"],
    "llama3_rope": ["rope_theta: mlx-lm would take 10000.0, the model has 500.0", "rope_scaling"],
    "llama_linear_rope": ["rope_scaling"],
    "mistral_window": ["sliding window"],
    "phi3": [],
    "qwen3": [],
    "qwen3_moe": ["num_experts: missing", "rope_theta: missing"],
    "llama": [],
    "gemma3": [],
}


@pytest.mark.parametrize("path", [p for p in OWN if p.name in MISREAD], ids=lambda p: p.name)
def test_what_mlx_lm_would_misread_of_a_base_is_said(path):
    found, wanted = misread(Base.open(path)), MISREAD[path.name]
    assert len(found) == len(wanted)
    assert all(part in line for part, line in zip(wanted, found, strict=True))


def test_notes_of_an_export():
    assert mlx_notes(Base.open(LLAMA), "q4") == ()
    (note,) = mlx_notes(Base.open(demo.base_path()), "q4")
    assert "11.3125" in note
    (note,) = mlx_notes(Base.open(FAMILIES / "mistral_window"), "none")
    assert "up to 8 tokens" in note
    (note,) = mlx_notes(Base.open(FAMILIES / "qwen3"), "q8")
    assert note.startswith("14 of 16 matrices stay")


# What the files hold.


@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_foretold_and_counted(form, out):
    base, done = Base.open(GEMMA), []
    files = write_mlx(base, out, form, on_bytes=done.append)
    size = sum(file.stat().st_size for file in files)
    assert expected_bytes(base, form) == size == done[-1]
    assert done == sorted(done)


def test_what_progress_raises_ends_it(out):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mlx(Base.open(GEMMA), out, "q8", on_bytes=stop)


def test_equal_bases_give_equal_bytes_and_no_mlx_is_asked(tmp_path, monkeypatch):
    for name in ("mlx", "mlx.core", "mlx_lm"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_mlx(Base.open(GEMMA), tmp_path / name, "q4")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("form", ["none", "q4"])
def test_a_merged_view_is_written_as_the_merged_folder_would_be(form, tmp_path):
    """What an adapter changes is rounded to the base's dtype, and then quantised, as by mlx-lm."""
    base = Base.open(recast(GEMMA, tmp_path / "base", ml_dtypes.bfloat16))
    adapters = [(read_adapter(TRUTH / "peft/gemma3/plain"), 0.7)]
    merge(base, adapters, tmp_path / "merged")
    for name, made in (("a", merged_view(base, adapters)), ("b", Base.open(tmp_path / "merged"))):
        (tmp_path / name).mkdir()
        write_mlx(made, tmp_path / name, form)
    assert held(tmp_path / "a") == held(tmp_path / "b")
    (tmp_path / "c").mkdir()
    write_mlx(base, tmp_path / "c", form)  # the broken variant: the base
    assert held(tmp_path / "a") != held(tmp_path / "c")


def test_quantising_before_rounding_would_give_other_codes():
    values = np.random.default_rng(2).standard_normal((64, 64)).astype("f4")
    assert not np.array_equal(
        quantise(values, 8)[0], quantise(values.astype(ml_dtypes.bfloat16), 8)[0]
    )


@pytest.mark.parametrize("path", [p for p in BASES if p.name not in LACKED], ids=lambda p: p.name)
def test_a_plain_folder_holds_the_bases_own_values(path, tmp_path, out):
    base = Base.open(path)
    write_mlx(base, out, "none")
    back = Base.open(dequantised_folder(out, tmp_path / "values"))
    assert back.decoder.parameters() == base.decoder.parameters()
    for name in base.decoder.parameters():
        np.testing.assert_array_equal(back.tensor(name), base.tensor(name).astype("f4"))


def test_a_quantised_folder_holds_values_near_the_bases(tmp_path, out):
    base = Base.open(GEMMA)
    write_mlx(base, out, "q8")
    back = Base.open(dequantised_folder(out, tmp_path / "values"))
    for name in base.decoder.parameters():
        mine, own = back.tensor(name), base.tensor(name)
        step = np.abs(own).max() / 64  # a code of 8 bits spans twice the largest at most
        assert np.abs(mine - own).max() <= (step if own.ndim > 1 else 0)
    with lorakit.open(tmp_path / "values", threads=1) as model:
        assert np.isfinite(model.logits([5, 6, 7])).all()


# Beside it.


@pytest.mark.parametrize(
    ("base", "adapters", "said"),
    [
        (LLAMA, ["peft/llama/alora"], "invocation"),
        (GEMMA, ["peft/gemma3/embed_only"], "both uses"),
        (GEMMA, ["peft/gemma3/norm_save"], "replacement"),
        (GEMMA, ["peft/gemma3/dora", "peft/gemma3/plain"], "DoRA|magnitude"),
    ],
)
def test_an_adapter_that_mlx_cannot_say_is_refused_first(base, adapters, said, out):
    scaled = [(read_adapter(TRUTH / name), 1.0) for name in adapters]
    with pytest.raises(UnsupportedError, match=said):
        write_apart(Base.open(base), scaled, out, "q4")
    assert list(out.iterdir()) == []


def test_scales_are_in_the_adapter_that_lies_beside(out):
    base, adapter = Base.open(GEMMA), read_adapter(TRUTH / "peft/gemma3/patterns")
    files = write_apart(base, [(adapter, -0.25)], out, "q4")
    assert files[-1] == out / "adapters/adapters.safetensors"
    read = read_mlx(out / "adapters", base.decoder)
    wanted = {d.module: d for d in one_adapter(base, [(adapter, -0.25)]).deltas}
    for d in read.deltas:
        own = wanted[d.module]
        assert own.scale == {x.module: x.scale for x in adapter.deltas}[d.module] * -0.25
        np.testing.assert_allclose(d.scale * d.b @ d.a, own.scale * own.b @ own.a, atol=1e-6)


def test_an_adapter_of_float64_lies_beside_it_in_float32(out):
    base, adapter = Base.open(GEMMA), read_adapter(TRUTH / "peft/gemma3/plain")
    wide = [replace(d, a=d.a.astype("f8"), b=d.b.astype("f8")) for d in adapter.deltas]
    write_apart(base, [(replace(adapter, deltas=tuple(wide)), 1.0)], out, "q4")
    assert read_mlx(out / "adapters", base.decoder) == adapter
