"""Record what PEFT makes of experts and Conv1D layers, on tiny random bases.

    python tests/data/recorded/record_peft.py

Needs torch, transformers 5 and peft. Everything is seeded; it writes the folders `bases` and `peft`
beside itself. `logits.npz` holds ids and the logits of the unmerged model at scale 1, `merged.npz`
the change of every weight by `merge_and_unload`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import save_file

HERE = Path(__file__).parent
IDS = torch.arange(3, 40)[None] % 61
SIZES = {"vocab_size": 64, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}
BASES = {
    "qwen3_moe": transformers.Qwen3MoeConfig(
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        **SIZES,
    ),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, **SIZES),
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CASES = {
    "experts": (
        "qwen3_moe",
        {
            "target_modules": ["q_proj"],
            "target_parameters": [*EXPERTS, "mlp.gate.weight"],
            "rank_pattern": {"experts.down_proj": 3},
            "alpha_pattern": {r"layers\.1\.mlp\.experts\.gate_up_proj": 9},
        },
    ),
    "down_of_one_layer": (
        "qwen3_moe",
        {"target_modules": [], "target_parameters": ["model.layers.1.mlp.experts.down_proj"]},
    ),
    "conv1d": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
}


def base(name):
    """The base in a folder, made where there is none."""
    folder = HERE / "bases" / name
    if not folder.exists():
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(BASES[name])
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()


def record(name, folder):
    """Logits and the change of weights of an adapter that lies in a folder."""
    model = peft.PeftModel.from_pretrained(base(name), folder).eval()
    with torch.no_grad():
        logits = model(IDS).logits[0].numpy()
        plain = base(name)(IDS).logits[0].numpy()
    assert np.abs(logits - plain).max() > 0.05
    np.savez_compressed(folder / "logits.npz", ids=IDS[0].numpy(), base=plain, scale1=logits)
    before = base(name).state_dict()
    after = model.merge_and_unload().state_dict()
    changes = {k: (after[k] - before[k]).numpy() for k in before if not before[k].equal(after[k])}
    np.savez_compressed(folder / "merged.npz", **changes)


def made_by_peft(case):
    name, options = CASES[case]
    config = peft.LoraConfig(
        **{"r": 2, "lora_alpha": 3, "task_type": "CAUSAL_LM", "lora_dropout": 0.0} | options
    )
    model = peft.get_peft_model(base(name), config)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = HERE / "peft" / name / case
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"bases/{name}"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    record(name, folder)


def made_per_expert():
    """As transformers 4 and PEFT saved them: a layer for each expert and projection."""
    folder = HERE / "peft" / "qwen3_moe" / "per_expert"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    shapes = {"gate_proj": (16, 12), "up_proj": (16, 12), "down_proj": (12, 16)}
    tensors = {}
    for layer in range(2):
        for expert in range(4):
            for module, (n_in, n_out) in shapes.items():
                key = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{module}.lora_"
                tensors[f"{key}A.weight"] = rng.normal(0, 0.2, (2, n_in)).astype("f4")
                tensors[f"{key}B.weight"] = rng.normal(0, 0.2, (n_out, 2)).astype("f4")
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "bases/qwen3_moe",
        "r": 2,
        "lora_alpha": 3,
        "target_modules": list(shapes),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    record("qwen3_moe", folder)


def main():
    transformers.utils.logging.set_verbosity_error()
    for folder in ("bases", "peft"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
    for case in CASES:
        made_by_peft(case)
    made_per_expert()


if __name__ == "__main__":
    main()
