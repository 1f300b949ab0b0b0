"""Tiny bases and adapters of three families: PEFT's logits, and llama.cpp's own conversions.

    python tests/data/truth/llama_cpp/make.py PATH_OF_LLAMA_CPP_SOURCES

Needs torch, transformers and peft (recorded with torch 2.13, transformers 5.23, peft 0.21.2 and
the llama.cpp of llama-cpp-python 0.3.36; float32, CPU). Each folder gets config.json of the base,
base.f32.gguf by llama.cpp's converter (without a vocabulary), the adapter as PEFT saves it, the
same by llama.cpp's convert_lora_to_gguf.py as adapter.f32.gguf, and logits.npz: `ids` [24], `base`
and `adapted` [24, vocabulary] by PEFT. Two adapters are not converted: llama.cpp's script does not
know PEFT's fused experts, and it transposes GPT-2's deltas as if they were stored as its weights.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "num_hidden_layers": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXTURE = transformers.Qwen3MoeConfig(
    **(SHAPE | {"num_hidden_layers": 2}),
    moe_intermediate_size=16,
    num_experts=3,
    num_experts_per_tok=2,
    norm_topk_prob=True,
)
GPT2 = transformers.GPT2Config(
    vocab_size=48,
    n_positions=32,
    n_embd=32,
    n_layer=1,
    n_head=2,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
)
LINEAR = {"r": 3, "lora_alpha": 6, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CASES = {
    "qwen3_moe": (MIXTURE, {"target_modules": ["q_proj", "k_proj", "o_proj", "mlp.gate"]}),
    "qwen3_moe_experts": (MIXTURE, {"target_modules": ["v_proj"], "target_parameters": EXPERTS}),
    "phi3": (
        transformers.Phi3Config(**SHAPE),
        {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    ),
    "gpt2": (GPT2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
}
CONVERT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import gguf, torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
folder = Path(sys.argv[2])
config = ModelBase.load_hparams(folder, False)
model = get_model_class(get_model_architecture(config, ModelType.TEXT))
class Bare(model):
    model_arch = model.model_arch
    def set_vocab(self):
        self.gguf_writer.add_tokenizer_model("none")
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])
with torch.inference_mode():
    Bare(folder, gguf.LlamaFileType.ALL_F32, Path(sys.argv[3]), eager=True).write()
"""


def make(name: str, sources: str) -> None:
    config, lora = CASES[name]
    folder = HERE / name
    torch.manual_seed(20240607)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    ids = torch.arange(4, 28)[None]
    with torch.no_grad(), tempfile.TemporaryDirectory() as temporary:
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(temporary)
        base = model(ids).logits[0].numpy()
        text = json.loads((Path(temporary) / "config.json").read_text())
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(text, indent=1) + "\n")
        if config.model_type == "gpt2":  # its converter reads a field that configs no longer have
            text["n_ctx"] = text["n_positions"]
            (Path(temporary) / "config.json").write_text(json.dumps(text))
        command = [sys.executable, "-c", CONVERT, sources, temporary, folder / "base.f32.gguf"]
        if name != "qwen3_moe_experts":
            subprocess.run(command, check=True)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**LINEAR, **lora)).eval()
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        np.savez_compressed(
            folder / "logits.npz", ids=ids[0].numpy(), base=base, adapted=adapted(ids).logits[0]
        )
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        trim(folder)
        script = [sys.executable, f"{sources}/convert_lora_to_gguf.py", folder, "--base", temporary]
        out = folder / "adapter.f32.gguf"
        done = subprocess.run([*script, "--outfile", out], capture_output=True, text=True)
        if done.returncode or name == "gpt2":
            print(name, done.stderr[-300:])
            out.unlink(missing_ok=True)


def trim(folder: Path) -> None:
    """Paths of the machine out of the config; weights written with the usual file mode."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": folder.name}
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


if __name__ == "__main__":
    for case in CASES:
        make(case, sys.argv[1])
