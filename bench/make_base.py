"""Make a base model of FunctionGemma's shape with random weights, and adapters for it.

    python bench/make_base.py DIR [--tiny]

Writes DIR as a Hugging Face folder (config.json, model.safetensors in bfloat16, about 536 MB). It
has no tokenizer: benchmarks feed it token ids. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from lorakit.adapter import Adapter, Delta
from lorakit.architectures import Decoder, describe

CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 18,
    "hidden_size": 640,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 2048,
    "vocab_size": 262144,
    "sliding_window": 512,
    "_sliding_window_pattern": 6,
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
TINY = {"num_hidden_layers": 2, "vocab_size": 2048}
BLOCK = 1 << 22  # values drawn at a time


def make_base(folder: Path, *, tiny: bool = False, seed: int = 0) -> Path:
    """Write the base unless it is there already; returns its folder."""
    if (folder / "model.safetensors").is_file():
        return folder
    config = CONFIG | (TINY if tiny else {})
    shapes = describe(config).parameters()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    partial = folder / "model.safetensors.part"
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            spread = 0.1 if len(shape) == 1 else shape[1] ** -0.5
            for begin in range(0, math.prod(shape), BLOCK):
                count = min(BLOCK, math.prod(shape) - begin)
                values = rng.standard_normal(count, np.float32) * np.float32(spread)
                file.write(values.astype(ml_dtypes.bfloat16).view(np.uint16).data)
    partial.replace(folder / "model.safetensors")
    return folder


def make_adapter(decoder: Decoder, seed: int, rank: int = 16) -> Adapter:
    """A random float32 adapter on every linear layer but the vocabulary projection."""
    rng = np.random.default_rng(seed)
    deltas = [
        Delta(
            module=name,
            a=rng.standard_normal((rank, shape.in_features), np.float32) * 0.02,
            b=rng.standard_normal((shape.out_features, rank), np.float32) * 0.02,
            scale=1.0,
        )
        for index in range(len(decoder.layers))
        for name, shape in decoder.linears(index).items()
    ]
    return Adapter(deltas=tuple(deltas))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="2 layers and a small vocabulary")
    arguments = parser.parse_args()
    print(make_base(arguments.folder, tiny=arguments.tiny))


if __name__ == "__main__":
    main()
