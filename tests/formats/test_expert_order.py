"""Experts whose file does not say which PEFT wrote it: the sizes decide, or it is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.architectures import describe
from lorakit.errors import UnsupportedError
from lorakit.formats import read_adapter

EXPERTS, RANK = 4, 2
AT = "base_model.model.model.layers.0"


def array(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def folder(path, hidden, width, *, down, attention, flipped=False, **config):
    """gate_up_proj, and down_proj around it, as ParamWrapper stores them."""
    path.mkdir(parents=True)
    sizes = {"gate_up_proj": (hidden, 2 * width)} | ({"down_proj": (width, hidden)} if down else {})
    tensors = {}
    for depth, (n_in, n_out) in enumerate(reversed(sizes.values())):
        n_in, n_out = (n_out, n_in) if flipped else (n_in, n_out)
        module = f"{AT}.mlp.experts" + ".base_layer" * depth
        tensors[f"{module}.lora_A.weight"] = array(EXPERTS * RANK, n_in)
        tensors[f"{module}.lora_B.weight"] = array(n_out, EXPERTS * RANK)
    if attention:
        tensors[f"{AT}.self_attn.q_proj.lora_A.weight"] = array(RANK, hidden)
        tensors[f"{AT}.self_attn.q_proj.lora_B.weight"] = array(8, RANK)
    save_file(tensors, path / "adapter_model.safetensors")
    own = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": ["q_proj"],
           "target_parameters": [f"mlp.experts.{name}" for name in sizes]}  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(own | config))
    return path


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("hidden", "width", "down", "attention"),
    [(32, 24, True, False), (32, 24, False, True), (32, 16, True, False), (32, 8, True, True)],
)
def test_the_sizes_tell(tmp_path, hidden, width, down, attention, flipped):
    kinds = {"down": down, "attention": attention, "flipped": flipped}
    version = "0.17.1" if flipped else "0.21.0"
    said = read_adapter(folder(tmp_path / "a", hidden, width, **kinds, peft_version=version))
    bare = read_adapter(folder(tmp_path / "b", hidden, width, **kinds))
    assert bare == said
    other = "0.21.0" if flipped else "0.17.1"
    assert read_adapter(folder(tmp_path / "c", hidden, width, **kinds, peft_version=other)) != bare


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("attention", [False, True])
def test_where_both_ways_agree_it_is_refused(tmp_path, flipped, attention):
    """The hidden size is twice the experts' width, and down_proj is not there."""
    kinds = {"down": False, "attention": attention, "flipped": flipped}
    with pytest.raises(UnsupportedError, match="either way round") as caught:
        read_adapter(folder(tmp_path / "a", 32, 16, **kinds))
    assert "peft_version" in caught.value.hint


def test_the_base_tells_where_the_file_does_not(tmp_path):
    path = folder(tmp_path / "a", 32, 24, down=False, attention=False)
    with pytest.raises(UnsupportedError, match="either way round") as caught:
        read_adapter(path)
    assert "base" in caught.value.hint
    decoder = base_of(32, 24)
    assert read_adapter(path, decoder, partial=True).deltas[0].in_features == 32
    with pytest.raises(UnsupportedError, match="the base's sizes"):
        read_adapter(folder(tmp_path / "b", 32, 16, down=False, attention=False), base_of(32, 16))


@pytest.mark.parametrize("field", ["kasa_config", "lora_ga_config", "use_bdlora", "velora_config"])
def test_a_field_that_came_with_the_new_order_tells(tmp_path, field):
    """As a writer leaves it that copies PEFT's config without the version."""
    kinds = {"down": False, "attention": True}
    said = read_adapter(folder(tmp_path / "a", 32, 16, **kinds, peft_version="0.21.2"))
    assert read_adapter(folder(tmp_path / "b", 32, 16, **kinds, **{field: None})) == said
    old = read_adapter(folder(tmp_path / "c", 32, 16, **kinds, peft_version="0.18.1"))
    both = {field: None, "peft_version": "0.18.1"}  # the version itself counts more
    assert read_adapter(folder(tmp_path / "d", 32, 16, **kinds, **both)) == old != said


@pytest.mark.parametrize("field", ["arrow_config", "ensure_weight_tying", "lora_bias"])
def test_a_field_of_both_tells_nothing(tmp_path, field):
    with pytest.raises(UnsupportedError, match="either way round"):
        read_adapter(folder(tmp_path / "a", 32, 16, down=False, attention=True, **{field: None}))


@pytest.mark.parametrize(("version", "flipped"), [("0.17.1", True), ("0.21.2", False)])
def test_the_card_beside_it_tells(tmp_path, version, flipped):
    kinds = {"down": False, "attention": True}
    said = read_adapter(folder(tmp_path / "a", 32, 16, **kinds, peft_version=version))
    card = folder(tmp_path / "b", 32, 16, **kinds) / "README.md"
    card.write_text(f"# Model Card\n### Framework versions\n\n- PEFT {version}\n")
    assert read_adapter(card.parent) == said
    other = read_adapter(
        folder(tmp_path / "c", 32, 16, **kinds, peft_version="0.21.0" if flipped else "0.17.0")
    )
    assert other != said
    card.write_text("- PEFT 0.17.1\n- PEFT 0.21.0\n")
    with pytest.raises(UnsupportedError, match="either way round"):
        read_adapter(card.parent)


def base_of(hidden, width):
    return describe({
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": hidden,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4,
        "intermediate_size": 64, "moe_intermediate_size": width, "num_experts": EXPERTS,
        "num_experts_per_tok": 2, "vocab_size": 64, "max_position_embeddings": 64,
        "norm_topk_prob": True, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": False,
    })  # fmt: skip
