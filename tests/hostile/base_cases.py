"""Base model folders whose config, index, weights or tokenizer lie."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from cases import case, packed, safetensors, sparse

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 8,
    "tie_word_embeddings": True,
}
INDEX = "model.safetensors.index.json"


def folder(path: Path, weights: bytes | None = None, **change: Any) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **change}))
    content = safetensors({"model.norm.weight": np.ones(8, np.float32)})
    (path / "model.safetensors").write_bytes(content if weights is None else weights)


def sharded(path: Path, shards: Any) -> None:
    folder(path)
    (path / "model.safetensors").rename(path / "model-00001.safetensors")
    (path / INDEX).write_text(json.dumps({"weight_map": shards}))


def tokenizer(path: Path, content: Any, **files: Any) -> None:
    path.mkdir(parents=True)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (path / "tokenizer.json").write_bytes(raw)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))


PLAIN = {
    "version": "1.0",
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "added_tokens": [],
}


@case("base_invalid", "missing", opens="base")
def tensors_missing(path: Path) -> None:
    folder(path)


@case("base_invalid", "num_hidden_layers", opens="base")
def billion_layers(path: Path) -> None:
    folder(path, num_hidden_layers=10**9)


@case("base_invalid", "and ", opens="base")
def four_thousand_layers(path: Path) -> None:
    folder(path, num_hidden_layers=4096)


@case("base_invalid", "vocab_size", opens="base")
def vocabulary_of_4000_digits(path: Path) -> None:
    folder(path, vocab_size=10**4000)


@case("base_invalid", "num_attention_heads", opens="base")
def heads_true(path: Path) -> None:
    folder(path, num_attention_heads=True)


@case("base_invalid", "num_attention_heads", opens="base")
def heads_0(path: Path) -> None:
    folder(path, num_attention_heads=0)


@case("base_invalid", "rms_norm_eps", opens="base")
def eps_nan(path: Path) -> None:
    folder(path, rms_norm_eps=float("nan"))


@case("base_invalid", "rope_theta", opens="base")
def theta_infinite(path: Path) -> None:
    folder(path, rope_theta=float("inf"))


@case("base_invalid", "rope_scaling", opens="base")
def rope_a_list(path: Path) -> None:
    folder(path, rope_scaling=[1])


@case("base_invalid", "tie_word_embeddings", opens="base")
def tied_text(path: Path) -> None:
    folder(path, tie_word_embeddings="yes")


@case("base_invalid", "layer_types", opens="base")
def layer_types_nested(path: Path) -> None:
    folder(
        path, model_type="gemma3_text", num_key_value_heads=2, layer_types=[[["full_attention"]]]
    )


@case("architecture_unknown", "\\x1b]0;", opens="base")
def architecture_of_terminal_codes(path: Path) -> None:
    folder(path, model_type="\x1b]0;owned\x07")


@case("architecture_unknown", "aaa", opens="base")
def architecture_of_10_mb(path: Path) -> None:
    folder(path, model_type="a" * (10 << 20))


@case("base_invalid", "config.json", opens="base")
def config_nested(path: Path) -> None:
    folder(path)
    (path / "config.json").write_bytes(b'{"a":' * 10**6)


@case("base_invalid", "more than 300000 items", opens="base")
def config_of_a_million_keys(path: Path) -> None:
    folder(path, **{f"k{i}": 0 for i in range(400_000)})


@case("base_invalid", "is there twice", opens="base")
def config_duplicate(path: Path) -> None:
    folder(path)
    (path / "config.json").write_text('{"model_type":"llama","model_type":"gemma3_text"}')


@case("base_invalid", "config.json is larger", opens="base")
def config_sparse(path: Path) -> None:
    folder(path)
    sparse(path / "config.json", 1 << 40, b"{")


@case("source_unsupported", "config.json is a named pipe", opens="base")
def config_pipe(path: Path) -> None:
    folder(path)
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")


@case("base_invalid", "outside the folder", opens="base")
def index_climbing(path: Path) -> None:
    sharded(path, {"model.norm.weight": "../../etc/passwd"})


@case("base_invalid", "outside the folder", opens="base")
def index_absolute(path: Path) -> None:
    sharded(path, {"model.norm.weight": "/etc/passwd"})


@case("source_not_found", "model-00002", opens="base")
def shard_missing(path: Path) -> None:
    sharded(path, {"a": "model-00001.safetensors", "b": "model-00002.safetensors"})


@case("base_invalid", "None", opens="base")
def shards_of_wrong_types(path: Path) -> None:
    sharded(path, {"a": ["model-00001.safetensors"], "b": None})


@case("base_invalid", "weight_map", opens="base")
def index_a_list(path: Path) -> None:
    sharded(path, ["model-00001.safetensors"])


@case("base_invalid", "100000 files; 4096 is the limit", opens="base")
def hundred_thousand_shards(path: Path) -> None:
    sharded(path, {f"t{i}": f"model-{i}.safetensors" for i in range(100_000)})


@case("base_invalid", "holds tensors of another file", opens="base")
def one_tensor_in_two_shards(path: Path) -> None:
    names = ["model-00001.safetensors", "model-00002.safetensors"]
    sharded(path, dict(zip("ab", names, strict=True)))
    (path / names[1]).write_bytes((path / names[0]).read_bytes())


@case("source_not_found", "neither", opens="base")
def weights_a_folder(path: Path) -> None:
    folder(path)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()


@case("source_not_found", "neither", opens="base")
def weights_a_pipe(path: Path) -> None:
    folder(path)
    (path / "model.safetensors").unlink()
    os.mkfifo(path / "model.safetensors")


@case("format_invalid", "model.safetensors", opens="base")
def weights_truncated(path: Path) -> None:
    folder(path, safetensors({"model.norm.weight": np.ones(8, np.float32)})[:-4])


@case("format_invalid", "limit", opens="base")
def weights_of_120_000_names(path: Path) -> None:
    header = {
        f"{i:x}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(120_000)
    }
    folder(path, packed(header))


@case("format_invalid", "limit", opens="base")
def weights_of_many_notes(path: Path) -> None:
    folder(path, packed({"__metadata__": {f"{i:x}": "" for i in range(200_000)}}))


def _terabyte(path: Path, padding: int) -> None:
    size = 1 << 40
    part = {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, size]}
    text = json.dumps({"model.embed_tokens.weight": part}).encode()
    text += b" " * (-len(text) % 8 + padding)
    head = struct.pack("<Q", len(text)) + text
    folder(path)
    sparse(path / "model.safetensors", len(head) + size, head)


@case("format_invalid", "limit", opens="base")
def weights_of_notes_and_braces(path: Path) -> None:
    """Braces in a string are no tensors."""
    notes = {f"{i:x}": "" for i in range(200_000)}
    folder(path, packed({"__metadata__": {"{" * 99_999: "", **notes}}))


@case("base_invalid", "expected [8, 8], found [274877906944]", opens="base")
def weights_of_a_terabyte(path: Path) -> None:
    _terabyte(path, 0)


@case("format_invalid", "not aligned", opens="base")
def weights_of_a_terabyte_unaligned(path: Path) -> None:
    _terabyte(path, 1)


@case("source_unsupported", "is a file", opens="base", at="model.safetensors")
def base_a_file(path: Path) -> None:
    folder(path)


@case("tokenizer_missing", "tokenizer.json", opens="tokenizer")
def tokenizer_missing(path: Path) -> None:
    path.mkdir(parents=True)


@case("source_unsupported", "named pipe", opens="tokenizer")
def tokenizer_a_pipe(path: Path) -> None:
    path.mkdir(parents=True)
    os.mkfifo(path / "tokenizer.json")


@case("format_invalid", "tokenizer.json is not a valid tokenizer", opens="tokenizer")
def tokenizer_nested(path: Path) -> None:
    tokenizer(path, b"[" * 10**6)


@case("format_invalid", "tokenizer.json is not a valid tokenizer", opens="tokenizer")
def tokenizer_truncated(path: Path) -> None:
    tokenizer(path, json.dumps(PLAIN).encode()[:-9])


@case("format_invalid", "tokenizer.json is not a valid tokenizer", opens="tokenizer")
def tokenizer_of_wrong_types(path: Path) -> None:
    tokenizer(path, {**PLAIN, "model": {"type": "BPE", "vocab": [1], "merges": {}}})


@case("format_invalid", "tokenizer.json is not a valid tokenizer", opens="tokenizer")
def tokenizer_ids_of_4000_digits(path: Path) -> None:
    tokenizer(path, {**PLAIN, "model": {"type": "BPE", "vocab": {"a": 10**300}, "merges": []}})


@case("format_invalid", "tokenizer.json is not a valid tokenizer", opens="tokenizer")
def merges_of_nothing(path: Path) -> None:
    tokenizer(path, {**PLAIN, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}})


@case("format_invalid", "tokenizer.json is not a valid tokenizer", opens="tokenizer")
def charsmap_that_lies(path: Path) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    tokenizer(path, {**PLAIN, "normalizer": normalizer})


@case("format_invalid", "tokenizer.json is larger", opens="tokenizer")
def tokenizer_sparse(path: Path) -> None:
    path.mkdir(parents=True)
    sparse(path / "tokenizer.json", 1 << 40, b"{")


@case("format_invalid", "eos_token_id", opens="tokenizer")
def eos_that_lies(path: Path) -> None:
    tokenizer(path, PLAIN, config={"eos_token_id": [1 << 40]})


@case("format_invalid", "tokenizer_config.json", opens="tokenizer")
def tokenizer_config_of_millions(path: Path) -> None:
    tokenizer(path, PLAIN, tokenizer_config={"a": [[]] * 10**6})


@case("format_unsupported", "decoder", opens="tokenizer")
def decoder_pattern(path: Path) -> None:
    pattern = {"Regex": "(a+)+$"}
    tokenizer(path, {**PLAIN, "decoder": {"type": "Replace", "pattern": pattern, "content": ""}})
