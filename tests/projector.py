"""A projector (mmproj) of random weights for tiny Gemma 3 bases, and pictures to show to it."""

import struct
import zlib
from pathlib import Path

import numpy as np

from lorakit.files.gguf import Value
from lorakit.files.gguf_write import write_gguf_file

SIDE, PATCH, WIDTH, INNER, LAYERS = 32, 8, 16, 32, 2
POSITIONS = 4  # 4 x 4 patches, pooled 2 x 2


def write_projector(path, embedding=64, seed=0, arch="clip"):
    """About 40 KB of mmproj: an encoder of two layers and Gemma 3's projection."""
    rng = np.random.default_rng(seed)

    def weight(*shape):
        return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    tensors = {
        "v.patch_embd.weight": weight(WIDTH, 3, PATCH, PATCH) * 3,
        "v.patch_embd.bias": weight(WIDTH),
        "v.position_embd.weight": weight((SIDE // PATCH) ** 2, WIDTH),
        "v.post_ln.weight": np.ones(WIDTH, np.float32),
        "v.post_ln.bias": weight(WIDTH),
        "mm.input_projection.weight": weight(WIDTH, embedding).astype(np.float16),
        "mm.soft_emb_norm.weight": np.ones(WIDTH, np.float32),
    }
    for layer in range(LAYERS):
        shapes = {
            "ln1": (WIDTH,), "ln2": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH), "attn_out": (WIDTH, WIDTH), "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }  # fmt: skip
        for name, shape in shapes.items():
            tensors[f"v.blk.{layer}.{name}.weight"] = weight(*shape)
            tensors[f"v.blk.{layer}.{name}.bias"] = weight(shape[0])
    numbers = {
        "image_size": SIDE, "patch_size": PATCH, "embedding_length": WIDTH,
        "feed_forward_length": INNER, "block_count": LAYERS, "attention.head_count": 2,
        "projection_dim": embedding, "projector.scale_factor": 2,
    }  # fmt: skip
    values = {
        "general.architecture": Value("str", arch),
        "clip.has_vision_encoder": Value("bool", True),
        "clip.projector_type": Value("str", "gemma3"),
        "clip.use_gelu": Value("bool", True),
        "clip.vision.attention.layer_norm_epsilon": Value("f32", 1e-6),
        "clip.vision.image_mean": Value("f32", np.full(3, 0.5, np.float32), array=True),
        "clip.vision.image_std": Value("f32", np.full(3, 0.5, np.float32), array=True),
        **{f"clip.vision.{name}": Value("u32", number) for name, number in numbers.items()},
    }
    with Path(path).open("wb") as file:
        write_gguf_file(file, values, tensors)
    return Path(path)


def png(seed, side=24):
    """A picture of large random squares."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, parts))


def _chunk(part):
    name, body = part
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
