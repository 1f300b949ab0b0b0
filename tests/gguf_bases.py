"""Tiny bases of every family with a tokenizer, random weights of ordinary size, no torch."""

import json
import shutil
from pathlib import Path

import numpy as np

import lorakit
from folders import DATA
from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.exporting.gguf import gguf_model, write_gguf
from lorakit.files.gguf import open_gguf
from lorakit.files.safetensors import write_safetensors
from quantize_cases import noise

TOKENIZER = DATA / "truth/bases/gemma3"  # of 512 tokens, bytes and merges
IDS = [1, 270, 31, 5, 499, 70, 300, 11, 401, 33, 8, 120, 77, 350, 260, 6, 90, 441, 15, 222]
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 512,
    "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SHORT = {"sliding_window": 4, "rope_local_base_freq": 100.0, "rope_theta": 7000.0}
GEMMA = SHAPE | SHORT | {
    "model_type": "gemma3_text", "head_dim": 32, "query_pre_attn_scalar": 32,
    "num_hidden_layers": 7,
}  # fmt: skip
PHI = SHAPE | {"model_type": "phi3", "rms_norm_eps": 1e-5, "sliding_window": None}
LONG = {
    "type": "longrope",
    "long_factor": [1.5 + at for at in range(6)],
    "short_factor": [1.1 + at / 4 for at in range(6)],
}
YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
FAMILIES = {
    "gemma3": GEMMA,
    "gemma3 other layers": GEMMA | {
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "gemma3 without windows": GEMMA | {"layer_types": ["full_attention"] * 7},
    "llama": SHAPE | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama wide heads": SHAPE | {
        "model_type": "llama",
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "llama 3": SHAPE | {
        "model_type": "llama",
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": SHAPE | {"model_type": "mistral", "sliding_window": None, "head_dim": 32},
    "qwen2": SHAPE | {"model_type": "qwen2", "rope_theta": 1e6},
    "qwen2 yarn": SHAPE | {"model_type": "qwen2", "rope_theta": 500.0, "rope_scaling": YARN},
    "qwen3": SHAPE | {"model_type": "qwen3", "head_dim": 32},
    "qwen3 experts": SHAPE | {
        "model_type": "qwen3_moe", "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "norm_topk_prob": True,
    },
    "phi3": PHI,
    "phi3 long": PHI | {
        "rope_scaling": LONG,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 64,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 128,
        "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip


def make_base(folder: Path, config: dict, dtype=np.float32) -> Path:
    """A model folder of a config."""
    folder.mkdir(parents=True)
    decoder = describe(config)
    tensors = {
        name: _values(decoder.architecture, name, shape, seed).astype(dtype)
        for seed, (name, shape) in enumerate(decoder.parameters().items())
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder)
    with (folder / "model.safetensors").open("wb") as file:
        write_safetensors(file, tensors, {"format": "pt"})
    return folder


def _values(architecture, name, shape, seed):
    if len(shape) > 1:
        return noise(shape, seed) * np.float32(0.3)
    one = 1 - architecture.norm_offset if "norm" in name or ".ln_" in name else 0
    return noise(shape, seed) * np.float32(0.3) + np.float32(0 if name.endswith("bias") else one)


def model_of(folder, **options):
    options = {"name": "tiny", "templates": {}} | options
    return gguf_model(folder if isinstance(folder, Base) else Base.open(folder), **options)


def written(folder, path, form="F32", **options):
    """The first file of a base in some form."""
    return write_gguf(model_of(folder), path, form, threads=2, **options)[0]


def arrays(path):
    return {name: np.array(t.array()) for name, t in open_gguf(path, model=True).tensors.items()}


def logits(path, ids=IDS):
    """llama.cpp's, in a context that Phi 3 does not take the long factors for."""
    with lorakit.open(path, engine="llama", threads=1, context=64) as model:
        return np.array(model.logits(list(ids)))
