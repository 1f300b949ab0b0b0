"""One rank and one alpha for readers that know no patterns, and nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from adapter_files import BASE, LLAMA, peft
from safetensors.numpy import load_file

from lorakit.adapter import Adapter, Delta
from lorakit.algebra.combine import combine
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert
from lorakit.formats.peft import patterns_note, write_peft

TRUTH = LLAMA.parent.parent / "peft"
ADAPTERS = ["gemma3/patterns", "gemma3/rslora", "llama/rslora", "llama/plain"]


def by_one_rule(folder):
    """What a reader computes that takes alpha / r of the config for every module (vLLM's rule), and
    one that takes alpha over the tensor's own rank (llama.cpp's converter)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    names = [n.removesuffix(".lora_A.weight") for n in tensors if n.endswith(".lora_A.weight")]
    found = {}
    for name in names:
        a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        alpha, rank = config["lora_alpha"], config["r"]
        product = b.astype(np.float32) @ a.astype(np.float32)
        found[name.removeprefix("base_model.model.")] = (
            alpha / rank * product,
            alpha / len(a) * product,
        )
    return found


def wrong(folder, adapter):
    """Modules that one of the two rules gets wrong."""
    found = by_one_rule(folder)
    return [
        d.module
        for d in adapter.deltas
        for product in found[d.module]
        if not np.allclose(product, d.scale * (d.b.astype("f4") @ d.a.astype("f4")), atol=1e-5)
    ]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_reader_of_one_alpha_is_right(tmp_path, name):
    adapter = read_adapter(TRUTH / name)
    write_peft(adapter, tmp_path / "plain")
    write_peft(adapter, tmp_path / "uniform", uniform=True)
    config = json.loads((tmp_path / "uniform/adapter_config.json").read_text())
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert not config["use_rslora"]
    assert wrong(tmp_path / "uniform", adapter) == []
    if not name.endswith("plain"):
        assert wrong(tmp_path / "plain", adapter)  # what it is for
    assert read_adapter(tmp_path / "uniform").modules == adapter.modules


def test_a_combination_is_right_and_its_plain_form_says_that_it_has_patterns(tmp_path):
    pair = [
        (read_adapter(TRUTH / "llama/plain"), 1.0),
        (read_adapter(TRUTH / "llama/plain_b"), -0.5),
    ]
    combined, _ = combine(pair)
    assert "rank_pattern" in patterns_note(combined)
    write_peft(combined, tmp_path / "a")
    write_peft(combined, tmp_path / "b", uniform=True)
    assert wrong(tmp_path / "b", combined) == []
    assert wrong(tmp_path / "a", combined)
    assert patterns_note(read_adapter(tmp_path / "b")) == ""


@pytest.mark.parametrize("shared", [False, True])
def test_experts_are_of_one_rank_too(tmp_path, shared):
    """gate and up that do not share A lie side by side, of twice the rank."""
    rng = np.random.default_rng(0)

    def delta(module, n_in, n_out, *experts, a=None):
        a = rng.standard_normal((*experts, 2, n_in), np.float32) if a is None else a
        b = rng.standard_normal((*experts, n_out, 2), np.float32)
        return Delta(module=f"model.layers.0.{module}", a=a, b=b, scale=2.0)

    gate = delta("mlp.experts.gate_proj", 8, 6, 4)
    up = delta("mlp.experts.up_proj", 8, 6, 4, a=gate.a if shared else None)
    others = [delta("mlp.experts.down_proj", 6, 8, 4), delta("self_attn.q_proj", 8, 8)]
    adapter = Adapter(deltas=(gate, replace(up, scale=2.0), *others))
    write_peft(adapter, tmp_path / "a", uniform=True)
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["r"] == (2 if shared else 4)
    assert not config["rank_pattern"]
    found = read_adapter(tmp_path / "a")
    for before, after in zip(adapter.deltas, found.deltas, strict=True):
        assert np.allclose(before.scale * before.b @ before.a, after.scale * after.b @ after.a)


def test_the_command_of_it(tmp_path):
    report = convert(TRUTH / "gemma3/patterns", tmp_path / "a", to="peft", uniform=True)
    assert report.notes == ()
    report = convert(TRUTH / "gemma3/patterns", tmp_path / "b", to="peft")
    assert "--uniform" in " ".join(report.notes)
    with pytest.raises(ParameterError, match="uniform"):
        convert(TRUTH / "gemma3/patterns", tmp_path / "c", to="mlx", uniform=True)
    assert patterns_note(read_adapter(peft(tmp_path / "d")), BASE.decoder) == ""
