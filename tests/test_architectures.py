"""What a config describes, against transformers' own reading of the same config."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.architectures import ARCHITECTURES, describe
from lorakit.errors import BaseModelError

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

# One line per thing that a config may leave out, rename or change.
CASES = {
    "gemma3 defaults": {"model_type": "gemma3_text"},
    "gemma3 nested rope": {
        "model_type": "gemma3_text",
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    },
    "gemma3 half nested rope": {
        "model_type": "gemma3_text",
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}},
    },
    "gemma3 old rope": {
        "model_type": "gemma3_text",
        "rope_theta": 7e5,
        "rope_local_base_freq": 3e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3 null rope": {
        "model_type": "gemma3_text",
        "rope_parameters": None,
        "rope_theta": 7e5,
        "rope_local_base_freq": 3e4,
    },
    "gemma3 pattern": {"model_type": "gemma3_text", "sliding_window_pattern": 3},
    "gemma3 layer types": {
        "model_type": "gemma3_text",
        "layer_types": ["full_attention"] * 3 + ["sliding_attention"] * 4,
        "sliding_window": 16,
    },
    "gemma3 shape": {
        "model_type": "gemma3_text",
        "head_dim": 32,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 100,
        "attention_bias": True,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": False,
        "hidden_activation": "gelu",
    },
    "llama defaults": {"model_type": "llama"},
    "llama biases": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "tie_word_embeddings": True,
    },
    "llama new rope": {
        "model_type": "llama",
        "rope_parameters": {
            **LLAMA3_ROPE,
            "rope_theta": 5e5,
            "original_max_position_embeddings": 512,
        },
        "max_position_embeddings": 4096,
    },
    "llama old rope": {
        "model_type": "llama",
        "rope_theta": 5e5,
        "rope_scaling": {**LLAMA3_ROPE, "original_max_position_embeddings": 512},
    },
    "llama rope without its context": {
        "model_type": "llama",
        "rope_scaling": LLAMA3_ROPE,
        "max_position_embeddings": 4096,
    },
    "llama theta beside rope_parameters": {
        "model_type": "llama",
        "rope_theta": 5e5,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0},
    },
    "llama rope by its oldest name": {
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "mistral defaults": {"model_type": "mistral"},
    "mistral without window": {"model_type": "mistral", "sliding_window": None},
    "mistral window": {"model_type": "mistral", "sliding_window": 32, "head_dim": 8},
    "mistral ignores biases": {
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "qwen2 defaults": {"model_type": "qwen2"},
    "qwen2 null kv heads": {"model_type": "qwen2", "num_key_value_heads": None},
    "qwen2 windows": {
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "max_window_layers": 3,
    },
    "qwen2 windows off": {
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "sliding_window": 32,
        "tie_word_embeddings": True,
    },
    "qwen3 defaults": {"model_type": "qwen3"},
    "qwen3 shape": {
        "model_type": "qwen3",
        "num_key_value_heads": 2,
        "attention_bias": True,
        "rope_theta": 1e6,
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"],
    },
    "qwen3_moe defaults": {"model_type": "qwen3_moe"},
    "qwen3_moe shape": {
        "model_type": "qwen3_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "head_dim": 32,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "qwen3_moe by its other name": {"model_type": "qwen3_moe", "num_local_experts": 3},
    "qwen3_moe some dense": {
        "model_type": "qwen3_moe",
        "num_experts": 2,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
        "use_sliding_window": True,
        "sliding_window": 16,
    },
    "phi3 defaults": {"model_type": "phi3"},
    "phi3 shape": {
        "model_type": "phi3",
        "num_key_value_heads": 2,
        "sliding_window": 32,
        "tie_word_embeddings": True,
        "rope_theta": 5e5,
        "partial_rotary_factor": 0.5,
    },
    "phi3 longrope": {
        "model_type": "phi3",
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.5] * 8,
            "short_factor": [1.0] * 8,
        },
        "original_max_position_embeddings": 2048,
        "max_position_embeddings": 8192,
    },
    "phi3 rope_parameters": {
        "model_type": "phi3",
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 2e4,
            "partial_rotary_factor": 0.75,
            "long_factor": [1.5] * 6,
            "short_factor": [1.0] * 6,
            "original_max_position_embeddings": 2048,
        },
        "max_position_embeddings": 8192,
    },
    "gpt2 defaults": {"model_type": "gpt2"},
    "gpt2 shape": {
        "model_type": "gpt2",
        "n_inner": 80,
        "n_positions": 48,
        "layer_norm_epsilon": 1e-4,
        "activation_function": "gelu",
        "tie_word_embeddings": False,
        "scale_attn_weights": False,
    },
}
SMALL_GPT2 = {"n_embd": 64, "n_layer": 7, "n_head": 4, "vocab_size": 128}


def small(case):
    """A tiny config with as many heads as the family's default of key-value heads asks for."""
    heads = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(str(case["model_type"]), 4)
    if case["model_type"] == "gpt2":
        return {**SMALL_GPT2, **case}
    tokens = {"pad_token_id": 0} if case["model_type"] == "phi3" else {}
    return {**SMALL, **tokens, "num_attention_heads": heads, **case}


def attention(model):
    if hasattr(model, "transformer"):
        return model.transformer.h[0].attn
    return model.model.layers[0].self_attn


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_config_means_what_transformers_takes_it_for(case):
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    torch = pytest.importorskip("torch", reason="the oracle of this test")
    config = small(case)
    decoder = describe(config)
    theirs = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert decoder.parameters() == shapes
    assert decoder.tied == theirs.tie_word_embeddings
    assert decoder.context == theirs.max_position_embeddings
    assert decoder.eps == getattr(theirs, "rms_norm_eps", None) or theirs.layer_norm_epsilon
    assert decoder.attention_scale == attention(model).scaling
    assert model.get_input_embeddings() is model.get_submodule(decoder.embedding)
    assert decoder.logit_softcap == getattr(theirs, "final_logit_softcapping", None)
    for index, layer in enumerate(decoder.layers):
        kinds = getattr(theirs, "layer_types", None)
        kind = kinds[index] if kinds else None
        window = theirs.sliding_window if hasattr(theirs, "sliding_window") else None
        assert layer.window == (window if kind in (None, "sliding_attention") else None)
        if layer.rope is None:
            assert not hasattr(theirs, "rope_parameters")
            continue
        rope = theirs.rope_parameters
        rope = rope.get(kind, rope)
        assert layer.rope.theta == rope["rope_theta"]
        assert layer.rope.kind == rope["rope_type"]
        assert layer.rope.factor == rope.get("factor", 1.0)
        assert layer.rope.partial == rope.get("partial_rotary_factor", 1.0)
        if layer.rope.kind in ("llama3", "longrope"):
            assert layer.rope.original_context == rope["original_max_position_embeddings"]
        if layer.rope.kind == "llama3":
            assert layer.rope.low_freq_factor == rope["low_freq_factor"]


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_an_activation_is_the_one_of_transformers(model_type):
    activations = pytest.importorskip("transformers.activations", reason="the oracle of this test")
    import torch

    x = torch.linspace(-3, 3, 50)
    ours = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
    }
    row = ARCHITECTURES[model_type]
    for name in ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh"):
        found = describe(small({"model_type": model_type, row.activation_key: name}))
        expected = activations.ACT2FN[name](x)
        assert torch.allclose(ours[found.activation](x), expected, atol=1e-6)


def test_an_unknown_architecture_is_named():
    with pytest.raises(BaseModelError, match="'mamba'") as caught:
        describe(small({"model_type": "mamba"}))
    assert caught.value.code == "architecture_unknown"
    assert "gemma3_text" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": "128"}, "vocab_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "3 KV heads"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.0}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": "high"}}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": ["silu"]}, "activation"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "qwen2", "layer_types": [[]] * 7}, "layer_types"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"model_type": ["llama"]}, "llama"),
        ({"model_type": "qwen3_moe", "num_experts": 10**6}, "num_experts"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [True]}, "mlp_only_layers"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"model_type": "phi3", "rope_scaling": {"type": "llama3"}}, "llama3"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
        ({"model_type": "gpt2", "n_head": 0}, "num_attention_heads"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(change, named):
    with pytest.raises(BaseModelError) as caught:
        describe(small({"model_type": "llama", "num_key_value_heads": 4, **change}))
    assert named in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [
    "num_hidden_layers",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "layer_types",
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "sliding_window",
    "sliding_window_pattern",
    "max_window_layers",
    "use_sliding_window",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "num_experts",
    "mlp_only_layers",
    "decoder_sparse_step",
    "n_inner",
    "n_layer",
]


@settings(max_examples=300, deadline=None)
@given(
    model_type=st.sampled_from(sorted(ARCHITECTURES)),
    change=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4),
)
def test_no_config_does_worse_than_be_refused(model_type, change):
    with contextlib.suppress(BaseModelError):
        describe(small({"model_type": model_type}) | change)


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_modules_have_the_shapes_of_their_weights(model_type):
    decoder = describe(small({"model_type": model_type, "num_experts": 3}))
    parameters = decoder.parameters()
    for name, module in decoder.modules().items():
        shape = (module.out_features, module.in_features)
        if module.experts is not None:
            assert module.experts == 3
            fused = parameters[decoder.fused(name)]
            assert fused[0] == 3
            assert fused[2] == module.in_features
            assert fused[1] % module.out_features == 0
            continue
        if name == "lm_head" and decoder.tied:
            continue
        expected = shape[::-1] if module.embedding or module.transposed else shape
        assert parameters[f"{name}.weight"] == expected
        assert (f"{name}.bias" in parameters) == module.bias
        assert not module.parts or sum(module.parts) == module.out_features


def test_which_layers_have_experts():
    config = {"model_type": "qwen3_moe", "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    layers = describe(small(config)).layers
    assert [layer.sparse for layer in layers] == [False, True, False, False, False, True, False]
