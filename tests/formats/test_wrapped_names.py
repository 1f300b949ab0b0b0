"""Names that differ from the base's by what wrapped the model; and those that only look like it."""

import numpy as np
import pytest
from adapter_files import BASE, LLAMA, MODULES, mlx, peft, scales
from safetensors.numpy import load_file

import lorakit
from lorakit.check import check
from lorakit.errors import FormatError, UnsupportedError
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert, repair
from lorakit.formats.names import is_canonical

OWN, FSDP = "base_model.model.", "_fsdp_wrapped_module"


def inside(module, step):
    """With a step behind the layer's number, as a wrapper of each block puts it."""
    steps = module.split(".")
    return ".".join([*steps[:3], step, *steps[3:]])


# What a state dict calls a tensor of a module, by what wrapped the model.
EXACT = {
    "torch.compile outside": lambda m: f"_orig_mod.{OWN}{m}",
    "torch.compile inside": lambda m: f"{OWN}_orig_mod.{m}",
    "torch.compile of a block": lambda m: OWN + inside(m, "_orig_mod"),
    "FSDP": lambda m: f"{OWN}_fsdp_wrapped_module.{m}",
    "FSDP of each block": lambda m: OWN + f"{FSDP}.{inside(m, FSDP)}",
    "checkpoints": lambda m: OWN + inside(m, "_checkpoint_wrapped_module"),
    "checkpoints in FSDP": lambda m: "_fsdp_wrapped_module." + OWN
    + inside(m, "_fsdp_wrapped_module._checkpoint_wrapped_module"),
    "DDP": lambda m: f"module.{OWN}{m}",
    "DDP inside": lambda m: f"{OWN}module.{m}",
    "DDP of a compiled one": lambda m: f"module._orig_mod.{OWN}{m}",
    "PEFT twice": lambda m: OWN + OWN + m,
    "PEFT three times": lambda m: OWN * 3 + m,
    "all of them": lambda m: f"module._orig_mod.{OWN}{FSDP}."
    + inside(m, f"{FSDP}._checkpoint_wrapped_module._orig_mod"),
    "a layer alone": lambda m: f"_forward_module.module.{OWN}{m}._orig_mod",
    "no PEFT": lambda m: m,
}  # fmt: skip
BY_BASE = {
    "AutoModel": lambda m: OWN + m.removeprefix("model."),
    "a text part": lambda m: f"{OWN}language_model.{m}",
    "a text part, new": lambda m: f"{OWN}model.language_model.{m.removeprefix('model.')}",
    "a model in a model": lambda m: f"{OWN}model.{m}",
    "DDP of a model": lambda m: f"{OWN}model.module.{m.removeprefix('model.')}",
    "Lightning": lambda m: f"model.{OWN}{m}",
    "a compiled text part": lambda m: (
        f"{OWN}model.language_model._orig_mod." + m.removeprefix("model.")
    ),
    "trl": lambda m: f"pretrained_model.{OWN}{m}",
}
STRANGE = {
    "a picture's": lambda m: f"{OWN}vision_tower.{m}",
    "a picture's encoder": lambda m: f"{OWN}vision_tower.encoder.{m.removeprefix('model.')}",
    "another root": lambda m: f"{OWN}draft.{m}",
}


def wrapped(folder, rename, **config):
    return peft(folder, name=lambda m, half: f"{rename(m)}.lora_{half}.weight", **config)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return read_adapter(peft(tmp_path_factory.mktemp("plain") / "a"))


@pytest.mark.parametrize("kind", EXACT)
def test_a_wrapper_is_taken_away_without_a_base(tmp_path, plain, kind):
    path = wrapped(tmp_path / "a", EXACT[kind])
    adapter = read_adapter(path)
    assert adapter == plain
    assert bool(adapter.reading.renamed) is (kind != "no PEFT")
    convert(path, tmp_path / "out", to="mlx")
    assert read_adapter(tmp_path / "out") == plain


@pytest.mark.parametrize("kind", BY_BASE)
def test_other_beginnings_are_told_by_the_base(tmp_path, plain, kind):
    path = wrapped(tmp_path / "a", BY_BASE[kind])
    adapter = read_adapter(path, BASE.decoder)
    assert adapter == plain
    assert len(adapter.reading.renamed) == 1 + ("compiled" in kind)
    assert adapter.reading.missing == ()
    assert not [m for m in check(adapter, BASE) if m.severity == "error"]
    assert read_adapter(path) != plain
    for to in ("mlx", "ort", "peft"):
        with pytest.raises(UnsupportedError, match="not named as in a model of text") as caught:
            convert(path, tmp_path / to, to=to)
        assert "--base" in caught.value.hint
        convert(path, tmp_path / f"{to}-based", to=to, base=BASE)
        assert read_adapter(tmp_path / f"{to}-based").modules == plain.modules


def test_a_step_of_ddp_in_each_block_is_told_by_the_base(tmp_path, plain):
    path = wrapped(tmp_path / "a", lambda m: OWN + inside(m, "module"))
    assert read_adapter(path, BASE.decoder) == plain
    with pytest.raises(UnsupportedError, match="not named as in a model of text"):
        convert(path, tmp_path / "out", to="mlx")


WRAPPED = [inside(m, "_orig_mod") for m in MODULES]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": WRAPPED},
        {"target_modules": [f"module.{m}" for m in MODULES]},
        {"target_modules": [f"_orig_mod.{m}" for m in MODULES]},
        {"target_modules": r"model\.layers\.\d+\._orig_mod\.self_attn\.(q|v)_proj"},
        {"r": 8, "rank_pattern": dict.fromkeys(WRAPPED, 4), "alpha_pattern": {}},
        {"r": 8, "rank_pattern": {r"layers\.\d+\._orig_mod\..*_proj": 4}},
        {"exclude_modules": ["_fsdp_wrapped_module.lm_head"]},
    ],
)
def test_a_config_that_names_wrappers_means_what_they_wrap(tmp_path, plain, config):
    path = wrapped(tmp_path / "a", lambda m: OWN + inside(m, "_orig_mod"), **config)
    assert read_adapter(path, partial=True) == plain


def test_other_names_than_those_of_wrappers_are_not_cut_out_of_a_config(tmp_path):
    path = wrapped(tmp_path / "a", lambda m: OWN + m, target_modules=["my_orig_mod.q_proj"])
    with pytest.raises(FormatError, match="does not target it"):
        read_adapter(path)


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_of_another_model_stays_what_it_is(tmp_path, kind):
    adapter = read_adapter(wrapped(tmp_path / "a", STRANGE[kind]), BASE.decoder)
    assert not adapter.reading.renamed
    assert [m.item for m in check(adapter, BASE) if m.severity == "error"] == ["architecture"]


def test_two_names_that_would_become_one_stay_two(tmp_path):
    both = [*MODULES, *(f"language_model.{m}" for m in MODULES)]
    adapter = read_adapter(peft(tmp_path / "a", modules=both), BASE.decoder)
    assert len(adapter.deltas) == 16
    assert any(m.severity == "error" for m in check(adapter, BASE))
    twice = {f"_orig_mod.{OWN}{MODULES[0]}.lora_A.weight": np.ones((4, 64), np.float32)}
    with pytest.raises(FormatError, match="a second tensor"):
        read_adapter(peft(tmp_path / "b", twice))


def test_mlx_names_become_those_of_the_base(tmp_path, plain):
    config = {"fine_tune_type": "lora", "num_layers": 4,
              "lora_parameters": {"rank": 4, "scale": 2.0}}  # fmt: skip
    names = [f"language_model.{m}" for m in MODULES]
    adapter = read_adapter(mlx(tmp_path / "a", config, modules=names, rank=4), BASE.decoder)
    assert adapter.modules == plain.modules


@pytest.mark.parametrize(
    "name", ["policy", "lora_1", "default", "weights", "0", "v1.0", "weight", "a.b-c.2", "lora_A"]
)
def test_the_adapters_name_in_keys_is_taken_away(tmp_path, plain, name):
    path = peft(tmp_path / "a", name=lambda m, half: f"{OWN}{m}.lora_{half}.{name}.weight")
    assert read_adapter(path) == plain


def test_of_several_adapters_in_a_file_one_is_chosen(tmp_path, plain):
    more = {f"{OWN}{m}.lora_{half}.b.weight": np.ones((4, 64) if half == "A" else (64, 4), "f4")
            for m in MODULES[::2] for half in "AB"}  # fmt: skip
    path = peft(tmp_path / "a", more, name=lambda m, half: f"{OWN}{m}.lora_{half}.a.weight")
    with pytest.raises(UnsupportedError, match="2 adapters in one file") as caught:
        read_adapter(path)
    assert caught.value.items == ("a", "b")
    assert f"lorakit repair {path} -o OUT --name a writes it alone" in caught.value.hint
    assert read_adapter(path, name="a") == plain
    assert len(read_adapter(path, name="b").deltas) == 4
    with pytest.raises(UnsupportedError, match="no adapter called"):
        read_adapter(path, name="c")
    repair(path, tmp_path / "out", name="a")
    assert read_adapter(tmp_path / "out") == plain


def test_names_that_peft_cut_are_refused_and_repaired(tmp_path, plain):
    """PEFT 0.17 with adapter_name="lora": lora_A.lora.weight without any ".lora"."""
    path = peft(tmp_path / "a", name=lambda m, half: f"{OWN}{m}_{half}.weight")
    with pytest.raises(FormatError, match="cut the word lora") as caught:
        read_adapter(path)
    assert "lorakit repair" in caught.value.hint
    report = repair(path, tmp_path / "out")
    assert read_adapter(tmp_path / "out") == plain
    assert ("q_proj_A", "q_proj.lora_A") in report.adapter.reading.renamed


def test_repair_writes_the_names_of_the_base(tmp_path, plain):
    path = wrapped(tmp_path / "a", BY_BASE["AutoModel"])
    with pytest.raises(UnsupportedError, match="not named as in"):
        repair(path, tmp_path / "out")
    repair(path, tmp_path / "out", base=BASE)
    assert read_adapter(tmp_path / "out") == plain
    names = load_file(tmp_path / "out/adapter_model.safetensors")
    assert all(name.startswith(f"{OWN}model.layers.") for name in names)


def test_repair_gives_bare_weights_a_config(tmp_path):
    path = peft(tmp_path / "a")
    (path / "adapter_config.json").unlink()
    repair(path, tmp_path / "out", alpha=12)
    assert scales(read_adapter(tmp_path / "out")) == {3.0}


def test_canonical_names():
    for name in (*MODULES, "lm_head", "transformer.h.0.attn.c_attn", "gpt_neox.layers.0.attn"):
        assert is_canonical(name), name
    for name in ("layers.0.mlp", "h.0.attn", "module.model.x", "model.model.layers.0.x",
                 "model._orig_mod.x", "language_model.model.x"):  # fmt: skip
        assert not is_canonical(name), name


def test_logits_are_those_of_the_plain_one(tmp_path):
    ids = np.load(LLAMA / "base_logits.npz")["ids0"].tolist()
    with lorakit.open(LLAMA, threads=1) as model:
        model.load_adapter(peft(tmp_path / "a"), "plain")
        model.load_adapter(wrapped(tmp_path / "b", BY_BASE["AutoModel"]), "auto")
        plain, auto, base = (model.logits(ids, adapters=a)
                             for a in ({"plain": 1.0}, {"auto": 1.0}, {}))  # fmt: skip
        assert np.abs(plain - auto).max() < 1e-5
        assert np.abs(plain - base).max() > 1e-2
