"""MLX folders by the rules of mlx-swift-lm (LoRAContainer.swift): no Swift runs here."""

import json

import pytest
from safetensors.numpy import load_file

from folders import DATA
from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from lorakit.formats.mlx import write_mlx

TRUTH = DATA / "truth"
BASES = {name: Base.open(TRUTH / "bases" / name).decoder for name in ("gemma3", "llama")}


def unread(folder, decoder):
    """The modules of its tensors that it has no LoRA layer for, over which it throws.

    It replaces the linear layers that `keys` names within each of the last `num_layers` blocks.
    """
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    count, table = config["num_layers"], config["lora_parameters"]
    assert config["fine_tune_type"] in ("lora", "dora")
    assert isinstance(table["rank"], int)
    assert isinstance(table["scale"], float)
    assert isinstance(count, int)
    if count < 0:
        pytest.fail("suffix() of a negative length ends the process", pytrace=False)
    last = list(range(len(decoder.layers)))[-count or len(decoder.layers) :]
    layers = {f"model.layers.{index}.{key}" for index in last for key in table["keys"]}
    held = load_file(folder / "adapters.safetensors")
    return {name.rpartition(".")[0] for name in held} - layers


def written(name, folder, decoder):
    adapter = read_adapter(TRUTH / "peft" / name)
    write_mlx(adapter, folder, decoder=decoder)
    assert read_adapter(folder).modules == adapter.modules
    return folder


@pytest.mark.parametrize("name", ["gemma3/plain", "gemma3/patterns", "llama/rslora", "llama/dora"])
def test_an_adapter_of_the_last_layers_is_read(name, tmp_path):
    decoder = BASES[name.partition("/")[0]]
    assert not unread(written(name, tmp_path / "a", decoder), decoder)


@pytest.mark.parametrize("name", ["gemma3/plain", "llama/plain", "llama/dora"])
def test_one_whose_config_is_of_all_layers_is_read_without_its_base(name, tmp_path):
    assert not unread(written(name, tmp_path / "a", None), BASES[name.partition("/")[0]])


def test_one_of_some_layers_that_was_written_without_its_base_is_not(tmp_path):
    """The broken variant: full names, which mlx-lm reads and mlx-swift-lm ends over."""
    with pytest.raises(pytest.fail.Exception, match="negative"):
        unread(written("gemma3/layers", tmp_path / "a", None), BASES["gemma3"])
