"""The demo's base as a GGUF file with tokenizer, as llama.cpp's converter would write it."""

import json
from pathlib import Path

import numpy as np

from lorakit import demo
from lorakit.base.folder import Base
from lorakit.base.gguf import FIELDS
from lorakit.files.gguf import Value
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats.gguf.names import tensor_of

NORMS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
FLOATS = ("rms_norm_eps", "rope_theta")
NORMAL, CONTROL, UNUSED = 1, 3, 5  # token types


def write_demo(path: Path) -> Path:
    """About 3 MB of F32 and F16: matrices as they are stored, Gemma's norms with their one."""
    base = Base.open(demo.base_path())
    tensors = {}
    for name, stored in base.tensors.items():
        array = np.asarray(stored)
        if "norm" in name:
            tensors[_norm(name)] = array.astype(np.float32) + 1
        else:
            found = tensor_of(name.removesuffix(".weight"), base.decoder.architecture.layout)
            tensors[f"{found}.weight"] = array
    with path.open("wb") as file:
        write_gguf_file(file, {**_numbers(base), **_vocabulary(base.decoder.vocabulary)}, tensors)
    return path


def _norm(name: str) -> str:
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, number, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{number}.{NORMS[module]}.weight"


def _numbers(base: Base) -> dict[str, Value]:
    config = {**base.config, "rope_theta": 1e6}
    values = {
        "general.architecture": Value("str", "gemma3"),
        "general.type": Value("str", "model"),
        "general.file_type": Value("u32", 1),
        "gemma3.attention.value_length": Value("u32", config["head_dim"]),
    }
    for field, key in FIELDS.items():
        if field in config:
            kind = "f32" if field in FLOATS else "u32"
            values[f"gemma3.{key}"] = Value(kind, config[field])
    return values


def _vocabulary(rows: int) -> dict[str, Value]:
    """A byte-level BPE; texts are split as GPT-2 does, which is not how the demo splits them."""
    content = json.loads((demo.base_path() / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    kinds = [CONTROL if token in special else NORMAL for token in tokens]
    lacking = range(len(tokens), rows)
    tokens += [f"[PAD{number}]" for number in lacking]
    kinds += [UNUSED] * len(lacking)
    merges = tuple(" ".join(pair) for pair in content["model"]["merges"])
    template = (demo.base_path() / "chat_template.jinja").read_text(encoding="utf-8")
    return {
        "tokenizer.ggml.model": Value("str", "gpt2"),
        "tokenizer.ggml.pre": Value("str", "gpt-2"),
        "tokenizer.ggml.tokens": Value("str", tuple(tokens), array=True),
        "tokenizer.ggml.token_type": Value("i32", np.array(kinds, np.int32), array=True),
        "tokenizer.ggml.merges": Value("str", merges, array=True),
        "tokenizer.ggml.bos_token_id": Value("u32", 1),
        "tokenizer.ggml.eos_token_id": Value("u32", 2),
        "tokenizer.chat_template": Value("str", template),
    }
