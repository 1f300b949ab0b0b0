"""Adapter folders made by hand, as trainers write them, for the llama of tests/data/truth."""

import json

import numpy as np
from safetensors.numpy import save_file

from folders import DATA
from lorakit.base.folder import Base

LLAMA = DATA / "truth/bases/llama"
BASE = Base.open(LLAMA)
MODULES = [f"model.layers.{n}.self_attn.{p}" for n in range(4) for p in ("q_proj", "v_proj")]
CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "llama",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
}


def factors(module, rank=4):
    """A [r, in] and B [out, r] of a module, the same whenever they are asked for."""
    rng = np.random.default_rng(sum(module.encode()))
    out = 64 if module.endswith("q_proj") else 32
    a = rng.standard_normal((rank, 64), np.float32)
    return a, rng.standard_normal((out, rank), np.float32)


def peft(folder, tensors=None, name=None, modules=MODULES, **config):
    """A PEFT folder. name: of a module's tensor, from (module, half)."""
    folder.mkdir(parents=True)
    name = name or (lambda module, half: f"base_model.model.{module}.lora_{half}.weight")
    made = {}
    for module in modules:
        made |= {name(module, h): f for h, f in zip("AB", factors(module), strict=True)}
    save_file(made | (tensors or {}), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def mlx(folder, config, dora=False, modules=MODULES, rank=8):
    folder.mkdir(parents=True)
    made = {}
    for module in modules:
        a, b = factors(module, rank)
        made |= {f"{module}.lora_a": a.T.copy(), f"{module}.lora_b": b.T.copy()}
        made |= {f"{module}.m": np.ones(len(b), np.float32)} if dora else {}
    save_file(made, folder / "adapters.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def scales(adapter):
    return {delta.scale for delta in adapter.deltas}
