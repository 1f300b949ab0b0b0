"""Make tiny random models of each family with transformers, and record their logits.

    python tests/data/families/make.py [FAMILY ...]

Needs torch and transformers (recorded with torch 2.13, transformers 5.23; float32, CPU, eager
attention). Each folder gets config.json, model.safetensors and logits.npz with `ids` int64 [40]
and `logits` float32 [40, vocabulary].
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "num_hidden_layers": 2,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "qwen2": transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SHAPE, tie_word_embeddings=False),
    "mistral_window": transformers.MistralConfig(**SHAPE, sliding_window=8),
    "llama3_rope": transformers.LlamaConfig(**SHAPE, rope_parameters=LLAMA3, mlp_bias=True),
    "llama_linear_rope": transformers.LlamaConfig(
        **SHAPE,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        attention_bias=True,
    ),
    "gemma3_softcap": transformers.Gemma3TextConfig(
        **(SHAPE | {"num_hidden_layers": 3}),
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=24,
        final_logit_softcapping=3.0,
    ),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **(SHAPE | {"num_hidden_layers": 3}),
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
    "phi3": transformers.Phi3Config(**(SHAPE | {"head_dim": 8}), **TOKENS),
    "gpt2": transformers.GPT2Config(
        vocab_size=96,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.15,
        **TOKENS,
    ),
}


def make(folder: Path, config: transformers.PreTrainedConfig) -> None:
    torch.manual_seed(20240607)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start as ones and zeros: too kind
                parameter.add_(torch.randn_like(parameter) * 0.1)
        ids = np.random.default_rng(20240607).integers(0, config.vocab_size, 40)
        logits = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez(folder / "logits.npz", ids=ids, logits=logits)


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        make(Path(__file__).parent / family, FAMILIES[family])
