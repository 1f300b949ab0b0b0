"""Make the base of bench/make_base.py as a GGUF file of Q8_0, without a tokenizer.

    python bench/make_gguf.py FILE.gguf [--type Q8_0]

About 285 MB. The weights are those of the folder, quantised by llama.cpp; it needs lorakit[llama].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from make_base import CONFIG, make_base

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.engines.llama.quantize import quantize
from lorakit.files.cache import cache_root
from lorakit.files.gguf import Value
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats.gguf.names import tensor_of

NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
NUMBERS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "vocab_size": "vocab_size",
}


def make_gguf(path: Path, kind: str = "Q8_0") -> Path:
    """Write the file unless it is there already; returns its path."""
    if path.is_file():
        return path
    base = Base.open(make_base(cache_root() / "bench" / "functiongemma-shape"))
    plain = path.with_suffix(".bf16.gguf")
    plain.parent.mkdir(parents=True, exist_ok=True)
    with plain.open("wb") as file:
        write_gguf_file(file, _values(), _tensors(base))
    quantize(plain, path, type=kind)
    plain.unlink()
    return path


def _values() -> dict[str, Value]:
    numbers = {f"gemma3.{key}": Value("u32", CONFIG[field]) for key, field in NUMBERS.items()}
    return {
        "general.architecture": Value("str", "gemma3"),
        "general.file_type": Value("u32", 32),
        **numbers,
        "gemma3.attention.layer_norm_rms_epsilon": Value("f32", CONFIG["rms_norm_eps"]),
        "gemma3.rope.freq_base": Value("f32", 1e6),
        "tokenizer.ggml.model": Value("str", "no_vocab"),
    }


def _tensors(base: Base) -> dict[str, Array]:
    """Linear weights as they are; Gemma's norms with the 1 that llama.cpp expects added."""
    read = base.tensors.__getitem__
    found = {
        "token_embd.weight": read("model.embed_tokens.weight"),
        "output_norm.weight": read("model.norm.weight").astype(np.float32) + 1,
    }
    for index in range(len(base.decoder.layers)):
        prefix = f"model.layers.{index}."
        for ours, theirs in NORMS.items():
            weight = read(f"{prefix}{ours}.weight").astype(np.float32) + 1
            found[f"blk.{index}.{theirs}.weight"] = weight
        for module in base.decoder.linears(index):
            name = tensor_of(module, base.decoder.architecture.layout)
            found[f"{name}.weight"] = read(f"{module}.weight")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", default="Q8_0", help="see lorakit quantize")
    arguments = parser.parse_args()
    print(make_gguf(arguments.file, arguments.type))


if __name__ == "__main__":
    main()
