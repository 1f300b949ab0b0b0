"""Record what mlx-lm computes with adapters of its own making, on the tiny bases beside this file.

    python tests/data/recorded/record_mlx.py

Needs mlx and mlx-lm. Everything is seeded; it writes the folder `mlx` beside itself. `gemma3` and
`llama` are the bases of tests/data/truth: a tied and an untied one.
"""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

HERE = Path(__file__).parent
TRUTH = HERE.parent / "truth/bases"
BASES = {
    "gemma3": TRUTH / "gemma3",
    "llama": TRUTH / "llama",
    "qwen3_moe": HERE / "bases/qwen3_moe",
}
EXPERTS = ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"]
MISSING = {"num_experts": 4, "rope_theta": 10000.0}  # transformers 5 spells them otherwise
CASES = {  # base, fine_tune_type, num_layers, keys
    "tied_embedding": ("gemma3", "lora", 1, ["self_attn.q_proj", "model.embed_tokens"]),
    "tied_embedding_dora": ("gemma3", "dora", 1, ["model.embed_tokens"]),
    "untied_embedding": ("llama", "lora", 1, ["model.embed_tokens", "lm_head"]),
    "untied_embedding_dora": ("llama", "dora", 1, ["model.embed_tokens"]),
    "experts": ("qwen3_moe", "lora", 2, ["self_attn.q_proj", "mlp.gate", *EXPERTS]),
}


def record(name):
    base, kind, layers, keys = CASES[name]
    parameters = {"rank": 2, "scale": 1.5, "dropout": 0.0, "keys": keys}
    model, _ = load_model(BASES[base], model_config=MISSING if base == "qwen3_moe" else {})
    ids = np.arange(5, 29) % 61
    plain = np.array(model(mx.array(ids)[None])[0].astype(mx.float32))
    mx.random.seed(11)
    model.freeze()
    linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
    model.update(
        tree_map(lambda x: x + 0.1 * mx.random.normal(x.shape), model.trainable_parameters())
    )
    model.eval()
    weights = {
        key: value
        for key, value in tree_flatten(model.trainable_parameters())
        if key.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")
    }
    folder = HERE / "mlx" / base / name
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {
        "fine_tune_type": kind,
        "num_layers": layers,
        "model": f"bases/{base}",
        "lora_parameters": parameters,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    logits = np.array(model(mx.array(ids)[None])[0].astype(mx.float32))
    assert np.abs(logits - plain).max() > 0.05
    np.savez_compressed(folder / "logits.npz", ids=ids, scale1=logits.astype(np.float32)[::4])


def main():
    shutil.rmtree(HERE / "mlx", ignore_errors=True)
    for name in CASES:
        record(name)


if __name__ == "__main__":
    main()
