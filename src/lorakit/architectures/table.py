"""The model families that lorakit knows: one row per `model_type` of a Hugging Face config.

Adding one is one row here, its layout, and its tests.
"""

from __future__ import annotations

from lorakit.architectures.decoder import Architecture
from lorakit.architectures.layers import (
    gemma3_layers,
    llama_layers,
    mistral_layers,
    phi_layers,
    positioned_layers,
    qwen_layers,
    qwen_moe_experts,
    qwen_moe_layers,
)
from lorakit.architectures.layouts import CONV1D, FUSED, MIXTURE, SANDWICH

ARCHITECTURES = {
    row.model_type: row
    for row in (
        Architecture(
            model_type="gemma3_text",
            model_class="Gemma3ForCausalLM",
            layout=SANDWICH,
            gguf="gemma3",
            norm_offset=1.0,
            scaled_embedding=True,
            qk_norm=True,
            bias_keys=frozenset({"attention_bias"}),
            softcaps=True,
            activation_key="hidden_activation",
            default_activation="gelu_pytorch_tanh",
            default_context=131072,
            default_head_dim=256,
            default_kv_heads=4,
            default_query_scalar=256,
            tied_by_default=True,
            layers=gemma3_layers,
        ),
        Architecture(
            model_type="llama",
            model_class="LlamaForCausalLM",
            gguf="llama",
            gguf_permuted=True,
            bias_keys=frozenset({"attention_bias", "mlp_bias"}),
            default_context=2048,
            layers=llama_layers,
        ),
        Architecture(
            model_type="mistral",
            model_class="MistralForCausalLM",
            gguf="llama",
            gguf_permuted=True,
            default_context=131072,
            default_kv_heads=8,
            layers=mistral_layers,
        ),
        Architecture(
            model_type="qwen2",
            model_class="Qwen2ForCausalLM",
            gguf="qwen2",
            qkv_bias=True,
            default_context=32768,
            default_kv_heads=32,
            layers=qwen_layers,
        ),
        Architecture(
            model_type="qwen3",
            model_class="Qwen3ForCausalLM",
            gguf="qwen3",
            qk_norm=True,
            bias_keys=frozenset({"attention_bias"}),
            default_context=32768,
            default_head_dim=128,
            default_kv_heads=32,
            layers=qwen_layers,
        ),
        Architecture(
            model_type="qwen3_moe",
            model_class="Qwen3MoeForCausalLM",
            layout=MIXTURE,
            gguf="qwen3moe",
            qk_norm=True,
            bias_keys=frozenset({"attention_bias"}),
            spellings=(("num_experts", "num_local_experts"),),
            default_context=32768,
            default_kv_heads=4,
            layers=qwen_moe_layers,
            experts=qwen_moe_experts,
        ),
        Architecture(
            model_type="phi3",
            model_class="Phi3ForCausalLM",
            layout=FUSED,
            gguf="phi3",
            default_context=4096,
            default_eps=1e-5,
            layers=phi_layers,
        ),
        Architecture(
            model_type="gpt2",
            model_class="GPT2LMHeadModel",
            layout=CONV1D,
            gguf="gpt2",
            refused_keys=("add_cross_attention", "scale_attn_by_inverse_layer_idx"),
            spellings=(
                ("hidden_size", "n_embd"),
                ("intermediate_size", "n_inner"),
                ("num_hidden_layers", "n_layer"),
                ("num_attention_heads", "n_head"),
                ("max_position_embeddings", "n_positions"),
                ("rms_norm_eps", "layer_norm_epsilon"),
            ),
            activation_key="activation_function",
            default_activation="gelu_new",
            default_context=1024,
            default_eps=1e-5,
            default_intermediate=4,
            tied_by_default=True,
            layers=positioned_layers,
        ),
    )
}
