"""A config that promises more than the file holds; each beside what is whole."""

import numpy as np
import pytest
from adapter_files import BASE, LLAMA, MODULES, mlx, peft

import lorakit
from lorakit.base.folder import Base
from lorakit.check import check
from lorakit.errors import FormatError, MismatchError, ParameterError
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert

WHOLE = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 8, "scale": 2.0}}


def row(count=2):
    return {
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones(
            (count, 64), np.float32
        )
    }


def saved(name, rows=512):
    return {f"base_model.model.{name}.weight": np.ones((rows, 64), np.float32)}


CASES = {
    "saved modules": (
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {**saved("model.embed_tokens"), **saved("lm_head")},
        ["embed_tokens", "lm_head"],
    ),
    "one of two saved": (
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        saved("model.embed_tokens"),
        ["lm_head"],
    ),
    "token indices": ({"trainable_token_indices": [1, 2]}, row(), ["trainable_token_indices"]),
    "token indices by name": (
        {"trainable_token_indices": {"embed_tokens": [1, 2]}}, row(), ["trainable_token_indices"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ["saved modules", "token indices", "token indices by name"])
def test_parts_that_the_config_names_are_asked_for(tmp_path, case):
    config, tensors, lacking = CASES[case]
    assert read_adapter(peft(tmp_path / "whole", tensors, **config), BASE.decoder)
    path = peft(tmp_path / "lacking", **config)
    for decoder in (None, BASE.decoder):
        with pytest.raises(FormatError) as caught:
            read_adapter(path, decoder)
        assert caught.value.code == "adapter_incomplete"
        assert len(caught.value.items) == len(lacking)
        assert all(any(word in item for item in caught.value.items) for word in lacking)
    adapter = read_adapter(path, BASE.decoder, partial=True)
    assert len(adapter.deltas) == 8
    assert [m.item for m in check(adapter, BASE) if m.severity == "error"] == [
        "incomplete save"
    ] * len(lacking)


def test_one_of_two_saved_modules_is_not_both(tmp_path):
    config, tensors, lacking = CASES["one of two saved"]
    adapter = read_adapter(peft(tmp_path / "a", tensors, **config), partial=True)
    assert len(adapter.reading.missing) == len(lacking)


def test_classifiers_are_named_in_pairs_of_which_one_exists(tmp_path):
    config = {"modules_to_save": ["classifier", "score"], "task_type": "SEQ_CLS"}
    score = {"base_model.model.score.weight": np.ones((2, 64), np.float32)}
    assert read_adapter(peft(tmp_path / "a", score, **config)).reading.missing == ()
    assert len(read_adapter(peft(tmp_path / "b", **config), partial=True).reading.missing) == 2


@pytest.mark.parametrize(
    ("modules", "config", "lacking"),
    [
        (MODULES[:4], {}, "q_proj, which the file lacks in 2 layers: 2, 3"),
        (MODULES[:-1], {}, "v_proj, which the file lacks in layer 3"),
        (MODULES, {"target_modules": ["q_proj", "v_proj", "gate_proj"]}, "4 layers: 0, 1, 2, 3"),
        (MODULES[:4], {"target_modules": r".*\.(?:q|v)_proj"}, "2 layers: 2, 3"),
        (MODULES[:4], {"target_modules": "all-linear"}, "2 layers: 2, 3"),
        (MODULES[2:6], {"layers_to_transform": [1, 2, 3]}, "layer 3"),
    ],
)
def test_modules_that_the_config_targets_are_asked_for_in_the_base(
    tmp_path, modules, config, lacking
):
    path = peft(tmp_path / "a", modules=modules, **config)
    with pytest.raises(FormatError, match="incomplete") as caught:
        read_adapter(path, BASE.decoder)
    assert lacking in " ".join(caught.value.items)
    with pytest.raises(FormatError, match="incomplete"):
        convert(path, tmp_path / "out.gguf", to="gguf", base=BASE)
    assert convert(path, tmp_path / "b.gguf", to="gguf", base=BASE, partial=True)


@pytest.mark.parametrize(
    ("modules", "config"),
    [
        (MODULES, {}),
        (MODULES[:4], {"layers_to_transform": [0, 1]}),
        (MODULES, {"target_modules": ["q_proj", "v_proj", "query_key_value"]}),  # of other models
        (MODULES, {"target_modules": r".*\.[qv]_proj"}),
        (MODULES, {"target_modules": "all-linear"}),
        (MODULES, {"target_modules": r"model\.(?!.*(lm_head|emb)).*"}),  # more than layers
        (MODULES[:3], {"target_modules": MODULES[:3]}),
    ],
)
def test_what_is_whole_is_read(tmp_path, modules, config):
    adapter = read_adapter(peft(tmp_path / "a", modules=modules, **config), BASE.decoder)
    assert adapter.reading.missing == ()


def test_an_adapter_of_another_base_is_called_that_and_not_incomplete(tmp_path):
    path = peft(tmp_path / "a", modules=MODULES[:4])
    gemma = LLAMA.parent / "gemma3"
    with pytest.raises(MismatchError):
        convert(path, tmp_path / "out", to="mlx", base=Base.open(gemma))


@pytest.mark.parametrize(
    ("modules", "config", "whole"),
    [
        (MODULES, {}, True),
        (MODULES[4:], {"num_layers": 2}, True),
        (MODULES[:-1], {}, False),
        (MODULES[4:], {}, False),
        (MODULES, {"lora_parameters": {"rank": 8, "scale": 2.0,
         "keys": ["self_attn.q_proj", "self_attn.v_proj"]}}, True),
        (MODULES[::2], {"lora_parameters": {"rank": 8, "scale": 2.0,
         "keys": ["self_attn.q_proj", "self_attn.v_proj"]}}, False),
        (MODULES[:2], {"num_layers": -1, "lora_parameters": {"rank": 8, "scale": 2.0,
         "keys": MODULES[:3]}}, False),
    ],
)  # fmt: skip
def test_mlx_configs_promise_layers_and_keys(tmp_path, modules, config, whole):
    path = mlx(tmp_path / "a", WHOLE | config, modules=modules)
    assert (read_adapter(path, BASE.decoder, partial=True).reading.missing == ()) is whole


def test_it_loads_where_it_is_said_to_be_partial(tmp_path):
    path = peft(tmp_path / "a", modules=MODULES[:4])
    with lorakit.open(LLAMA, threads=1) as model:
        with pytest.raises(FormatError, match="incomplete"):
            model.load_adapter(path)
        model.load_adapter(lorakit.AdapterConfig(path, partial=True), "half")
        assert model.find("half").adapter.modules == tuple(sorted(MODULES[:4]))
    with pytest.raises(ParameterError):
        lorakit.AdapterConfig(path, partial=1)


def test_a_truncated_name_of_a_whole_weight_is_no_replacement(tmp_path):
    """Of a module that the config does not save; PEFT would not load it."""
    stray = {"base_model.model.model.layers.0.extra.weight": np.ones((4, 64), np.float32)}
    with pytest.raises(FormatError, match="modules_to_save"):
        read_adapter(peft(tmp_path / "a", stray))
    assert read_adapter(peft(tmp_path / "b", stray, modules_to_save=["extra"])).replacements


def test_the_truth_folders_are_whole():
    data = LLAMA.parent.parent
    for file in sorted(data.glob("peft/*/*/adapter_model.safetensors")):
        base = Base.open(data / "bases" / file.parent.parent.name)
        assert read_adapter(file.parent, base.decoder, partial=True).reading.missing == ()
