"""Small models of many kinds for quantising, the same bytes everywhere, and how to compare files.

Their matrices have few rows: which type a tensor takes depends on names, layers and row lengths.
"""

import hashlib
import json
from itertools import groupby
from pathlib import Path

import ml_dtypes
import numpy as np

from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_types import BLOCKS
from lorakit.files.gguf_write import write_gguf_file

RECORDED = Path(__file__).parent / "data" / "recorded" / "quantized.json"
ROW, ROWS = 256, 64
BF16 = ml_dtypes.bfloat16
# architecture, layers, row lengths of attn_* and ffn_*, experts, heads, key heads, stored as
MODELS = {
    "shared heads": ("llama", 17, 256, 512, 0, 8, 2, np.float32),
    "tied, odd rows": ("gemma3", 16, 96, 40, 0, 2, 2, np.float16),
    "8 experts": ("llama", 16, 256, 256, 8, 8, 8, BF16),
    "4 experts, odd rows": ("qwen3moe", 16, 256, 320, 4, 8, 2, np.float32),
    "falcon": ("falcon", 32, 256, 256, 0, 8, 8, np.float16),
    "70B": ("qwen2", 80, 256, 256, 0, 8, 8, BF16),
    "names": ("llama", 1, 256, 256, 0, 8, 8, np.float32),
}
ONLY = {"70B": ("attn_v", "attn_q", "ffn_down")}  # of each layer
# Names that llama.cpp leaves as they are, and some like them that it does not.
NAMES = (
    "a_norm.weight", "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_tid2eid.weight",
    "altup_proj.weight", "blk.0.laurel_l.weight", "per_layer_model_proj.weight",
    "blk.0.ssm_conv1d.weight",
    "blk.0.shortconv.conv.weight", "blk.0.indexer.k_proj.weight", "blk.0.indexer.q_proj.weight",
    "blk.0.time_mix_first.weight", *(f"blk.0.time_mix_{part}.weight" for part in (
        "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2",
        "lerp_fused", "key",
    )), "blk.0.attn_rel_b.weight", "v.position_embd.weight", "sam.pos_embd.weight",
    "sam.neck.0.weight", "sam.net_2.weight", "blk.0.rel_pos_h.weight", "v.patch_embd.weight",
    "v.patch_merger.weight", "a.rvq.codebook.weight", "mm.a.code_embd.weight",
    "position_embd.weight", "token_types.weight", "blk.0.position_embed.weight", "matrix",
    "blk.0.weights", "blk.0.attn_qkv.weight", "blk.0.attn_kv_b.weight", "blk.0.ssm_a.weight",
    "per_layer_token_embd.weight", "dec.blk.0.attn_v.weight", "blk.x.ffn_down.weight",
    "weight", "blk.10.any.weight", "blk.9.any.weight",
)  # fmt: skip


def noise(shape, seed):
    """Float32 with a bell's shape, from -1 to 1; made of whole numbers, so the same everywhere."""
    count = int(np.prod(shape))
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    total = sum((mixed >> np.uint64(at)) & np.uint64(0xFFFF) for at in (0, 16, 32, 48))
    return ((total.astype(np.float32) - 131070) / 131072).reshape(shape)


def write_model(name, path):
    """One of MODELS. Returns its path."""
    architecture, layers, row, inner, experts, heads, key_heads, dtype = MODELS[name]
    tensors = {
        tensor: noise(shape, seed).astype(dtype if len(shape) > 1 else np.float32)
        for seed, (tensor, shape) in enumerate(_shapes(name, layers, row, inner, experts).items())
    }
    numbers = {
        "block_count": layers, "context_length": 64, "embedding_length": row,
        "feed_forward_length": inner, "attention.head_count": heads,
        "attention.head_count_kv": key_heads,
    }  # fmt: skip
    if experts:
        numbers |= {"expert_count": experts, "expert_used_count": 2}
    values = {
        "general.architecture": Value("str", architecture),
        "general.file_type": Value("u32", 0),  # said anew, at the end
        **{f"{architecture}.{key}": Value("u32", number) for key, number in numbers.items()},
        f"{architecture}.attention.layer_norm_rms_epsilon": Value("f32", 1e-6),
        f"{architecture}.attention.layer_norm_epsilon": Value("f32", 1e-6),
        "tokenizer.ggml.model": Value("str", "none"),
        "tokenizer.ggml.tokens": Value("str", ("a", "é", ""), array=True),
        "some.numbers": Value("i16", np.array([-1, 2], np.int16), array=True),
    }
    with Path(path).open("wb") as file:
        write_gguf_file(file, values, tensors)
    return path


def _shapes(name, layers, row, inner, experts):
    shapes = {"token_embd.weight": (3, row), "output_norm.weight": (row,)}
    if "tied" not in name:
        shapes["output.weight"] = (3, row)
    if name == "names":
        return (
            shapes
            | {"one.row.weight": (1, row), "slices.weight": (2, 1, row)}
            | dict.fromkeys(NAMES, (2, row))
        )
    for layer in range(layers):
        block = {
            "attn_q": (2, row), "attn_k": (2, row), "attn_v": (2, row), "attn_output": (2, row),
            "ffn_up": (2, row), "ffn_down": (2, inner),
        }  # fmt: skip
        if experts:
            block |= {
                "ffn_gate_inp": (experts, row), "ffn_down_exps": (experts, 2, inner),
                "ffn_down_shexp": (1, 2, inner),
            }  # fmt: skip
            del block["ffn_down"]
        shapes |= {
            f"blk.{layer}.{part}.weight": shape
            for part, shape in block.items()
            if part in ONLY.get(name, block)
        }
    return shapes


def summary(path):
    """What is recorded of a file: its tensors' types in order, and the SHA-256 of all its bytes."""
    kinds = [tensor.kind for tensor in open_gguf(path, model=True).tensors.values()]
    runs = [(kind, len(list(run))) for kind, run in groupby(kinds)]
    return {
        "types": " ".join(f"{count}x{kind}" for kind, count in runs),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def hard_rows():
    """[ROWS, ROW] float32: of many sizes, with outliers, equal values, zeros, and tiny ones."""
    rows = noise((ROWS, ROW), 1)
    rows[8:16] *= 1e-4
    rows[16:24] *= 300
    rows[24:28, ::17] *= 40
    rows[28] = 0
    rows[29] = 0.25
    rows[30, ::2] = 0
    rows[31, 32:64] = -1
    rows[32:36] *= np.float32(1e-38)
    rows[36:40] = np.round(rows[36:40] * 4) / 4
    return rows


def row_digests(kind, content):
    """A short digest of each row of `hard_rows` as stored."""
    values, size = BLOCKS[kind]
    rows = np.asarray(content).reshape(ROWS, ROW // values * size)
    return [hashlib.sha256(row.tobytes()).hexdigest()[:8] for row in rows]


def recorded():
    return json.loads(RECORDED.read_text("utf-8"))
