"""Bases whose weights are quantised are refused by name, with the original to open."""

import json
import shutil
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from commands import invoke
from folders import DATA
from lorakit import Base, read_adapter
from lorakit.adapter import Precondition
from lorakit.base.quantised import original_name
from lorakit.check import check, require_fit
from lorakit.errors import BaseModelError, MismatchError
from lorakit.files.safetensors import open_safetensors, write_safetensors

LLAMA, GEMMA = DATA / "truth/bases/llama", DATA / "truth/bases/gemma3"
PLAIN = DATA / "truth/peft/llama/plain"
NAMES = {
    "unsloth/Llama-3.2-1B-bnb-4bit": "unsloth/Llama-3.2-1B",
    "unsloth/Qwen2.5-7B-Instruct-unsloth-bnb-4bit": "unsloth/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-AWQ": "Qwen/Qwen2.5-7B-Instruct",
    "x/Llama-3.1-8B-Instruct-AWQ-INT4": "x/Llama-3.1-8B-Instruct",
    "x/Llama-3.1-8B-Instruct-FP8-dynamic": "x/Llama-3.1-8B-Instruct",
    "x/Llama-3.1-8B-Instruct-quantized.w4a16": "x/Llama-3.1-8B-Instruct",
    "mlx-community/Qwen3-8B-MLX-6bit": "mlx-community/Qwen3-8B",
    "models/phi-4-bnb-4bit/": "models/phi-4",
    "x/gemma-3-4b-it": "",
    "x/Phi-4-mini-dynamic": "",
    "x/model.v2": "",
    "x/bnb": "",
    "": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_originals(name):
    assert original_name(name) == NAMES[name]


def quantised(folder, config=(), card=""):
    shutil.copytree(LLAMA, folder)
    given = json.loads((folder / "config.json").read_text()) | dict(config)
    (folder / "config.json").write_text(json.dumps(given))
    if card:
        (folder / "README.md").write_text(card)
    return folder


@pytest.mark.parametrize(
    ("said", "called"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "fp8"}, "float8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "new"}, "the method 'new'"),
        ({"group_size": 64, "bits": 4}, "MLX"),
        ({"bits": 3}, "the method 'unknown'"),
    ],
)
def test_a_quantised_base_is_refused_by_its_method(tmp_path, said, called):
    key = "quantization" if called == "MLX" else "quantization_config"
    folder = quantised(tmp_path / "x", {key: said})
    with pytest.raises(BaseModelError, match=f"quantised by {called}") as refused:
        Base.open(folder)
    assert "open the original, in float32" in refused.value.hint
    inner = quantised(tmp_path / "y", {"text_config": {key: said}})
    with pytest.raises(BaseModelError, match="quantised"):
        Base.open(inner)


def test_an_export_of_ones_own_says_what_it_was_made_from(tmp_path):
    folder = quantised(tmp_path / "x", {"quantization": {"group_size": 64, "bits": 4}})
    said = {"base_name": "org/tiny", "adapters": "merged", "from": [{"source": "hf:me/home"}]}
    (folder / "lorakit.json").write_text(json.dumps(said))
    with pytest.raises(BaseModelError, match="quantised by MLX") as refused:
        Base.open(folder)
    assert "mlx-lm, which runs it" in refused.value.hint
    assert "made from, 'org/tiny' with hf:me/home" in refused.value.hint
    for damaged in ("[]", "{}", '{"base_name": 1, "adapters": "merged", "from": [1]}', "{"):
        (folder / "lorakit.json").write_text(damaged)
        with pytest.raises(BaseModelError) as refused:
            Base.open(folder)
        assert "open the original" in refused.value.hint


def test_the_original_is_named_by_whoever_says_it(tmp_path):
    config = {"quantization_config": {"quant_method": "bitsandbytes"}}
    by_folder = quantised(tmp_path / "tiny-bnb-4bit", config)
    by_path = quantised(tmp_path / "b", config | {"_name_or_path": "unsloth/tiny-llama-bnb-4bit"})
    card = "---\nbase_model: meta-llama/tiny\nbase_model_relation: quantized\n---\n"
    by_card = quantised(tmp_path / "c", config | {"_name_or_path": "x/y-bnb-4bit"}, card)
    of_both = quantised(tmp_path / "d-4bit", config, card.replace("/tiny", "/tiny-bnb-4bit"))
    on_hub = quantised(tmp_path / "models--unsloth--hub-bnb-4bit/snapshots/0a1b", config)
    for folder, name in (
        (by_folder, "by its name tiny"),
        (on_hub, "by its name unsloth/hub"),  # as the Hub's client keeps it
        (by_path, "by its name unsloth/tiny-llama"),
        (by_card, "which its card names: hf:meta-llama/tiny"),
        (of_both, "which its card names: hf:meta-llama/tiny"),
    ):
        hint = invoke("check", PLAIN, "-b", folder).error.hint
        assert f"{name};" in hint
    nameless = quantised(tmp_path / "plain", config)
    assert "bfloat16; adapters" in invoke("run", nameless, "hi").error.hint


def test_float8_weights_are_refused_whatever_the_config_says(tmp_path):
    folder = quantised(tmp_path / "tiny-FP8")
    (file,) = folder.glob("*.safetensors")
    tensors = {n: np.array(t) for n, t in open_safetensors(file).tensors.items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
    with file.open("wb") as out:
        write_safetensors(out, tensors, {"format": "pt"})
    with pytest.raises(BaseModelError, match=f"{name} are float8_e4m3fn, without") as refused:
        Base.open(folder)
    assert "by its name tiny;" in refused.value.hint


def trained_on(name):
    adapter = read_adapter(PLAIN)
    return replace(adapter, precondition=Precondition(name=name))


def test_an_adapter_of_a_quantised_base_names_the_original():
    adapter = trained_on("unsloth/tiny-bnb-4bit")
    with pytest.raises(MismatchError) as refused:
        require_fit(adapter, Base.open(GEMMA))
    assert "the original of unsloth/tiny-bnb-4bit, by its name unsloth/tiny" in refused.value.hint
    (found,) = check(adapter, Base.open(LLAMA))
    assert "or the original of the quantised one, by its name unsloth/tiny" in found.advice


def test_the_original_of_a_quantised_base_is_no_other_base():
    """QLoRA's adapters run on the original; another name still warns."""
    assert check(trained_on("unsloth/llama-bnb-4bit"), Base.open(LLAMA)) == ()
    assert check(trained_on("unsloth/llama"), Base.open(LLAMA)) == ()
    (found,) = check(trained_on("unsloth/llama-2-bnb-4bit"), Base.open(LLAMA))
    assert found.item == "base name"
