"""A base model in GGUF: its numbers, as the config of a Hugging Face folder says them.

llama.cpp runs the file; this is what lorakit must know of it to check adapters, to convert them
and to tell bases apart. Keys as in ggml-org/ggml, docs/gguf.md. Weights are not read, but for the
tables of embeddings where they are stored as plain floats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.adapter import Array
from lorakit.architectures import ARCHITECTURES, HEAD, Decoder, describe, foreign
from lorakit.base.folder import Base
from lorakit.errors import BaseModelError, CapabilityError
from lorakit.files.gguf import GgufFile, is_gguf
from lorakit.files.gguf_parts import open_gguf_model

# Field of a config.json -> key of a GGUF file, after the name of its architecture.
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_OFF = ("sliding_window",)  # which converters write as 0 where there is none
TEMPLATE = "tokenizer.chat_template"
SAMPLING = "general.sampling."
PLAIN = ("F32", "F16", "BF16")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_ENCODERS = ("t5", "t5encoder")
_TYPES = {row.gguf: row.model_type for row in reversed(ARCHITECTURES.values())}


def open_base(path: str | os.PathLike[str]) -> Base:
    """A base model from a Hugging Face folder or a GGUF file, found out by content.

    Of a model in several GGUF files the path is the first one's.
    Errors as of Base.open and open_gguf_base.
    """
    place = Path(path).expanduser()
    return open_gguf_base(place) if is_gguf(place) else Base.open(place)


def open_gguf_base(path: Path) -> Base:
    """A Base of a GGUF file, or of all parts of which it is the first; llama.cpp reads the weights.

    A file of a family without a row is described by itself alone; see architectures.foreign.
    Raises SourceError, FormatError, BaseModelError (`base_invalid`) where the file is an adapter or
    lacks a number, and CapabilityError for an encoder or a diffusion model.
    """
    file = open_gguf_model(path)
    kind = _text(file, "general.type") or "model"
    if kind != "model":
        raise BaseModelError(
            f"{path} holds a GGUF file of the type {kind!r:.40}, not a model",
            hint="open the base, and load an adapter's file with load_adapter",
        )
    config = _config(file)
    known = _text(file, "general.architecture") in _TYPES
    return Base(
        path=path.absolute(),
        config=config,
        decoder=describe(config) if known else _foreign(file, config),
        tensors=_tables(file),
        files=tuple(part.absolute() for part in file.parts),
        templates=_templates(file),
        sampling=_sampling(file),
        title=_text(file, "general.name"),
    )


def _config(file: GgufFile) -> dict[str, Any]:
    name = _text(file, "general.architecture")
    if not _NAME.fullmatch(name):
        raise BaseModelError(
            f"{file.path}: {name!r:.80} is no name of an architecture", code="architecture_unknown"
        )
    config: dict[str, Any] = {"model_type": _TYPES.get(name, name)}
    for field, key in FIELDS.items():
        value = file.values.get(f"{name}.{key}")
        if value is not None and not value.array and not (field in _OFF and value.data == 0):
            config[field] = value.data
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise BaseModelError(f"{file.path} has no token_embd.weight")
    config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    config["attention_bias"] = "blk.0.attn_output.bias" in file.tensors
    config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    return config


def _foreign(file: GgufFile, config: Mapping[str, Any]) -> Decoder:
    """By the file's own keys and tensors."""
    name = _text(file, "general.architecture")
    _require_causal(file, name)
    return foreign(
        name,
        {tensor: held.shape for tensor, held in file.tensors.items()},
        layers=_whole(file, config, "num_hidden_layers"),
        hidden=_whole(file, config, "hidden_size"),
        vocabulary=config["vocab_size"],
        context=_whole(file, config, "max_position_embeddings"),
    )


def _whole(file: GgufFile, config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        key = f"{_text(file, 'general.architecture')}.{FIELDS[field]}"
        raise BaseModelError(f"{file.path}: {key} must be a positive number, found {value!r:.40}")
    return value


def _require_causal(file: GgufFile, name: str) -> None:
    """Refuse encoders, and models that fill in a text in any order."""
    causal = file.values.get(f"{name}.attention.causal")
    if name in _ENCODERS or (causal is not None and causal.data is False):
        raise CapabilityError(
            f"{file.path} ({name}) generates no text token by token: it is an encoder, or a "
            "diffusion model",
            hint="llama.cpp's own programs run it: llama-embedding, llama-diffusion-cli",
        )


def _tables(file: GgufFile) -> Mapping[str, Array]:
    """The embedding and the head by their Hugging Face names, where they are plain floats."""
    names = {"model.embed_tokens.weight": "token_embd.weight", f"{HEAD}.weight": "output.weight"}
    return {
        name: file.tensors[stored].array()
        for name, stored in names.items()
        if stored in file.tensors and file.tensors[stored].kind in PLAIN
    }


def _templates(file: GgufFile) -> dict[str, str]:
    """Chat templates by name; the plain one is "default"."""
    found = {}
    for key, value in file.values.items():
        if key == TEMPLATE and not value.array and isinstance(value.data, str):
            found["default"] = value.data
        elif key.startswith(f"{TEMPLATE}.") and isinstance(value.data, str):
            found[key.removeprefix(f"{TEMPLATE}.")] = value.data
    return found


def _sampling(file: GgufFile) -> dict[str, Any]:
    """What the file says of sampling, by the last part of its keys."""
    return {
        key.removeprefix(SAMPLING): value.data
        for key, value in file.values.items()
        if key.startswith(SAMPLING) and not value.array
    }


def _text(file: GgufFile, key: str) -> str:
    value = file.values.get(key)
    return value.data if value is not None and isinstance(value.data, str) else ""
