"""GGUF files made or changed for a test: any value, any tensor type, whatever its blocks mean."""

from pathlib import Path

import numpy as np

from lorakit.files.gguf import ALIGNMENT, Value, open_gguf
from lorakit.files.gguf_parts import part_name
from lorakit.files.gguf_types import BLOCKS
from lorakit.files.gguf_write import gguf_head, packed

# Where a block's float16 scales are; other bytes are codes (ggml-common.h).
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
SPACE = "\u2581"


def write(path: Path, values: dict, tensors: dict) -> Path:
    """values: Value by key, or bytes as stored. tensors: (kind, shape, bytes) by name."""
    stored = {key: packed(v) if isinstance(v, Value) else v for key, v in values.items()}
    infos = [(name, kind, shape) for name, (kind, shape, _) in tensors.items()]
    parts = [gguf_head(stored, infos)]
    for _, _, raw in tensors.values():
        parts += [bytes(raw), bytes(-len(raw) % ALIGNMENT)]
    path.write_bytes(b"".join(parts))
    return path


def changed(source: Path, path: Path, values: dict | None = None, tensors: dict | None = None):
    """A copy with other values and tensors; None removes one."""
    file = open_gguf(source, model=True)
    held = {n: (t.kind, t.shape, t.raw.tobytes()) for n, t in file.tensors.items()}
    new = {**file.stored, **(values or {})}, {**held, **(tensors or {})}
    return write(path, *({k: v for k, v in some.items() if v is not None} for some in new))


def split(source: Path, stem: Path, count: int = 2, first: int | None = None, **more) -> Path:
    """A file in parts, as llama-gguf-split lays them out; the first one.

    first: how many tensors the first part has. more: of a part by "partN", other stored values.
    """
    file = open_gguf(source, model=True, vocabulary=True)
    held = [(n, (t.kind, t.shape, t.raw.tobytes())) for n, t in file.tensors.items()]
    begin = len(held) // count if first is None else first
    cuts = [0, *np.linspace(begin, len(held), count, dtype=int)]
    paths = [stem.with_name(part_name(stem.name, at + 1, count)) for at in range(count)]
    for at, path in enumerate(paths):
        said = {
            "split.no": Value("u16", at),
            "split.count": Value("u16", count),
            "split.tensors.count": Value("i32", len(held)),
        }
        values = {**(file.stored if at == 0 else {}), **said, **more.get(f"part{at + 1}", {})}
        given = {key: value for key, value in values.items() if value is not None}
        write(path, given, dict(held[cuts[at] : cuts[at + 1]]))
    return paths[0]


def floats(array: np.ndarray) -> tuple:
    return "F32", array.shape, array.astype("<f4").tobytes()


def blocks(kind: str, shape: tuple, seed: int = 0) -> tuple:
    """A quantised tensor with any codes, and scales that keep its values small."""
    values, size = BLOCKS[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (int(np.prod(shape)) // values, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = rng.uniform(1e-4, 1e-3, len(raw)).astype("<f2")
        raw[:, at : at + 2] = scale[:, None].view(np.uint8)
    return kind, shape, raw.tobytes()


def sentencepiece(size: int) -> dict:
    """A SentencePiece vocabulary of so many tokens: bytes, letters, and words by their scores."""
    words = ["he", "the", "in", "er", "an", "re", "on", "and", "ing", "ent", "tion", "hello"]
    parts = {word[:end] for word in words for end in range(2, len(word) + 1)}
    parts |= {SPACE + part for part in parts} | {f"{SPACE}{c}" for c in "abcdefghot"}
    letters = [SPACE, *"abcdefghijklmnopqrstuvwxyzABCDEFGH.,!?0123456789\u00e4\u00e9"]
    pieces = letters + sorted(parts, key=lambda part: (-len(part), part))
    tokens = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, 3, 3, 3, *[6] * 256, *[1] * len(pieces)]
    tokens += ["<|user|>"]
    types += [4]
    rest = size - len(tokens)
    tokens += [f"[PAD{len(tokens) + index}]" for index in range(rest)]
    types += [5] * rest
    scores = [0.0] * 260 + [-float(index) for index in range(size - 260)]
    return {
        "tokenizer.ggml.model": Value("str", "llama"),
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": Value("str", tuple(tokens), array=True),
        "tokenizer.ggml.token_type": Value("i32", types, array=True),
        "tokenizer.ggml.scores": Value("f32", scores, array=True),
        "tokenizer.ggml.bos_token_id": Value("u32", 1),
        "tokenizer.ggml.eos_token_id": Value("u32", 2),
        "tokenizer.ggml.unknown_token_id": Value("u32", 0),
        "tokenizer.ggml.padding_token_id": Value("u32", 3),
    }
