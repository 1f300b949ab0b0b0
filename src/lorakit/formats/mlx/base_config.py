"""A base as mlx-lm's classes read it: the config that they read right, and what they cannot do.

Read in mlx-lm 0.32, models/*.py. Its classes take plain fields with defaults of their own, and
drop what they do not know: a config of transformers 5, which keeps RoPE in `rope_parameters`, is
read with another theta and without scaling, and nothing says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.architectures.decoder import Rope, mscale
from lorakit.base.folder import Base
from lorakit.formats.replaced_rows import rows_as_deltas

Fields = dict[str, Any]
# Where a config lacks a field: what each class takes. What has no default here must be there.
DEFAULTS: dict[str, Fields] = {
    "gemma3_text": {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": None,
        "sliding_window_pattern": 6,
        "sliding_window": 512,
        "query_pre_attn_scalar": 256,
        "head_dim": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": None,  # not read: the weights say it
    },
    "llama": {
        "rope_theta": 1e4,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    "qwen2": {"rope_theta": 1e6, "rope_scaling": None, "tie_word_embeddings": True},
    "qwen3": {"rope_scaling": None},
    "qwen3_moe": {"rope_scaling": None},
    "phi3": {
        "rope_theta": 1e4,
        "rope_scaling": None,
        "partial_rotary_factor": 1.0,
        "tie_word_embeddings": False,
        "original_max_position_embeddings": 4096,
    },
    "gpt2": {},
}
DEFAULTS["mistral"] = DEFAULTS["llama"]
# What YarnRoPE of mlx-lm (rope_utils.py) takes where a config does not say it.
YARN = {"original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
DERIVED = ("head_dim", "num_key_value_heads", "max_position_embeddings", "rope_parameters")
ACTIVATIONS = {"gemma3_text": "gelu_tanh", "gpt2": "gelu_tanh"}  # of the others: silu
BIASED = ("llama", "mistral")  # whose attention_bias and mlp_bias are read
NARROW = ("qwen2", "phi3", "gpt2")  # whose heads are always hidden / heads wide
DROPPED = (  # mlx-lm would run or look for what these name
    *("_name_or_path", "auto_map", "model_file", "quantize_activations"),
    *("quantization", "quantization_config", "vision_config"),
)


def mlx_config(base: Base) -> Fields:
    """config.json from which mlx-lm's class builds this model, where `config_faults` finds nothing.

    RoPE is said in the words of mlx-lm and in those of transformers 5.
    """
    kept = {key: value for key, value in base.config.items() if key not in DROPPED}
    return {**kept, **_fields(base.decoder, base.config)}


def config_faults(decoder: Decoder, config: Mapping[str, Any]) -> list[str]:
    """Everything of this model that mlx-lm's class of its family does not compute."""
    return list(_faults(decoder, config))


def config_notes(decoder: Decoder) -> list[str]:
    """What mlx-lm computes otherwise than the model's own class, in whatever folder it is."""
    notes, window = [], _window(decoder)
    if window is not None:
        notes.append(
            f"mlx-lm has no sliding window for {decoder.architecture.model_type}: it computes the "
            f"same up to {window} tokens, and other logits from there on"
        )
    scale = float(decoder.hidden) ** 0.5
    if decoder.architecture.scaled_embedding and float(ml_dtypes.bfloat16(scale)) != scale:
        notes.append(
            f"mlx-lm multiplies embeddings by {float(ml_dtypes.bfloat16(scale)):.6g}, the model's "
            f"class in float32 by {scale:.6g}: mlx-lm rounds this number to bfloat16"
        )
    return notes


def misread(base: Base) -> list[str]:
    """What mlx-lm would get wrong of the base's folder as it is, or not open at all."""
    decoder, config = base.decoder, base.config
    family = decoder.architecture.model_type
    found, defaults = config_faults(decoder, config), DEFAULTS[family]
    for key, value in _fields(decoder, config).items():
        if key in DERIVED or (key == "rope_theta" and _finds_theta(family, config)):
            continue
        if key == "rope_scaling":
            if value is not None and not _finds_scaling(family, config):
                found.append(f"rope_scaling: mlx-lm would scale nothing, the model {value!r:.80}")
        elif key not in config and key not in defaults:
            found.append(f"{key}: missing in config.json, and mlx-lm needs it")
        elif (taken := config.get(key, defaults.get(key))) not in (None, value):
            found.append(f"{key}: mlx-lm would take {taken!r:.40}, the model has {value!r:.40}")
    rope = decoder.layers[0].rope
    if rope is not None and rope.kind == "yarn":
        found += _yarn_misread(rope, config)
    return found + _unknown_names(base) + config_notes(decoder)


def for_base(adapter: Adapter, base: Base) -> tuple[Adapter, tuple[str, ...]]:
    """An adapter in words that MLX has; notes: also where mlx-lm would not read its base right."""
    said, notes = rows_as_deltas(adapter, base)
    if base.is_gguf or base.exported is not None:
        return said, notes
    by_nature = config_notes(base.decoder)
    wrong = tuple(
        f"mlx-lm reads this base otherwise: {fault}"
        for fault in misread(base)
        if fault not in by_nature
    )
    way = ("lorakit export BASE --to mlx -o OUT writes one that it reads right",) if wrong else ()
    return said, (*notes, *wrong, *way)


def _finds_theta(family: str, config: Mapping[str, Any]) -> bool:
    return family == "qwen3" and "rope_theta" in (config.get("rope_parameters") or {})


def _finds_scaling(family: str, config: Mapping[str, Any]) -> bool:
    said = config.get("rope_scaling") or {}
    if family == "phi3":
        return "type" in said
    return bool(said or (family == "qwen3" and config.get("rope_parameters")))


def _unknown_names(base: Base) -> list[str]:
    """Tensors that mlx-lm has no place for under the names of the base's files."""
    family = base.decoder.architecture.model_type
    if family == "gpt2" and base.file_name("transformer.h") == "transformer.h":
        return ["transformer.*: mlx-lm takes tensors of GPT-2 without this beginning alone"]
    fused = [m for m in base.decoder.modules() if base.stored(m)[0].rows is not None]
    return ["mlp.experts.gate_up_proj: mlx-lm takes experts one by one alone"] if fused else []


def _fields(decoder: Decoder, config: Mapping[str, Any]) -> Fields:
    """The fields that mlx-lm's class reads, none left to a default of its own."""
    family, heads = decoder.architecture.model_type, decoder.heads
    if family == "gpt2":
        return {
            "n_ctx": decoder.context,
            "n_positions": decoder.context,
            "n_embd": decoder.hidden,
            "n_head": heads,
            "n_layer": len(decoder.layers),
            "layer_norm_epsilon": decoder.eps,
            "vocab_size": decoder.vocabulary,
        }
    fields: Fields = {
        "hidden_size": decoder.hidden,
        "num_hidden_layers": len(decoder.layers),
        "intermediate_size": decoder.intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "rms_norm_eps": decoder.eps,
        "vocab_size": decoder.vocabulary,
        "max_position_embeddings": _context(decoder),
        "tie_word_embeddings": decoder.tied,
    }
    if family in BIASED:
        fields |= {"attention_bias": decoder.qkv_bias, "mlp_bias": decoder.mlp_bias}
    if decoder.experts is not None:
        fields |= _sparse(decoder, config)
    return fields | (_gemma(decoder, config) if family == "gemma3_text" else _rope(decoder, config))


def _sparse(decoder: Decoder, config: Mapping[str, Any]) -> Fields:
    experts = decoder.experts
    assert experts is not None
    return {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.intermediate,
        "norm_topk_prob": experts.normalised,
        "decoder_sparse_step": config.get("decoder_sparse_step") or 1,
        "mlp_only_layers": config.get("mlp_only_layers") or [],
    }


def _gemma(decoder: Decoder, config: Mapping[str, Any]) -> Fields:
    whole = [layer for layer in decoder.layers if layer.window is None]
    local = [layer for layer in decoder.layers if layer.window is not None]
    fields: Fields = {
        "query_pre_attn_scalar": config.get("query_pre_attn_scalar", 256),
        "sliding_window_pattern": _pattern(decoder),
    }
    by_kind = {}
    if whole and whole[0].rope is not None:
        rope = whole[0].rope
        fields |= {"rope_theta": rope.theta, "rope_scaling": _scaling(rope)}
        by_kind["full_attention"] = _parameters(rope)
    if local and local[0].rope is not None:
        fields |= {"rope_local_base_freq": local[0].rope.theta, "sliding_window": local[0].window}
        by_kind["sliding_attention"] = _parameters(local[0].rope)
    return fields | {"rope_parameters": config.get("rope_parameters") or by_kind}


def _rope(decoder: Decoder, config: Mapping[str, Any]) -> Fields:
    rope = decoder.layers[0].rope
    assert rope is not None
    fields: Fields = {"rope_theta": rope.theta, "rope_scaling": _scaling(rope)}
    parameters = _parameters(rope)
    if decoder.architecture.model_type == "phi3":
        fields["partial_rotary_factor"] = rope.partial
        fields["original_max_position_embeddings"] = rope.original_context
        parameters["partial_rotary_factor"] = rope.partial
        if rope.kind == "longrope":
            said = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
            fields["rope_scaling"] = {**said, "type": "longrope", "rope_type": "longrope"}
            parameters = {**said, **parameters, "rope_type": "longrope"}
    if rope.kind == "yarn":  # complete: a class of transformers 5 finds what mlx-lm finds
        return fields | {"rope_parameters": {**_yarn_said(config), **parameters}}
    return fields | {"rope_parameters": config.get("rope_parameters") or parameters}


def _yarn_said(config: Mapping[str, Any]) -> Fields:
    said = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    return {key: value for key, value in said.items() if value is not None}


def _yarn_misread(rope: Rope, config: Mapping[str, Any]) -> Iterator[str]:
    """What mlx-lm would take for itself where the config's own words do not say it."""
    said = _yarn_said(config)
    for key, value in (_scaling(rope) or {}).items():
        taken = said.get(key, YARN.get(key))
        if key != "rope_type" and taken != value:
            yield f"{key} of its RoPE: mlx-lm would take {taken}, not {value}"


def _scaling(rope: Rope) -> Fields | None:
    if rope.kind == "linear":
        return {"rope_type": "linear", "factor": rope.factor}
    if rope.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_context,
        }
    if rope.kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
        }
    return None


def _parameters(rope: Rope) -> Fields:
    """In the words of transformers 5."""
    return {"rope_type": "default", "rope_theta": rope.theta, **(_scaling(rope) or {})}


def _pattern(decoder: Decoder) -> int | None:
    """Every which layer is global, where one number says it. mlx-lm wants one of them at least."""
    windows = [layer.window for layer in decoder.layers]
    period = windows.index(None) + 1 if None in windows else 0
    if not period or any((w is None) != ((n + 1) % period == 0) for n, w in enumerate(windows)):
        return None
    return period


def _context(decoder: Decoder) -> int:
    """Tokens that mlx-lm computes as the model does. longrope takes its scale from this number."""
    rope = decoder.layers[0].rope
    if rope is not None and rope.kind == "longrope":
        return decoder.context
    return min(decoder.context, _window(decoder) or decoder.context)


def _window(decoder: Decoder) -> int | None:
    """The shortest sliding window that mlx-lm does not know of, below the context."""
    if decoder.architecture.model_type == "gemma3_text":
        return None
    windows = [layer.window for layer in decoder.layers if layer.window is not None]
    return min(windows) if windows and min(windows) < decoder.context else None


def _faults(decoder: Decoder, config: Mapping[str, Any]) -> Iterator[str]:
    family = decoder.architecture.model_type
    if family not in DEFAULTS:
        yield f"mlx-lm has no class for {family}"
        return
    wanted = ACTIVATIONS.get(family, "silu")
    if decoder.activation != wanted:
        yield f"its activation is {decoder.activation}; mlx-lm computes {wanted}"
    if decoder.logit_softcap is not None:
        yield f"its logits are capped at {decoder.logit_softcap:g}; mlx-lm leaves the cap out"
    qkv = decoder.qkv_bias and not decoder.architecture.qkv_bias
    if family not in BIASED and (qkv or decoder.output_bias or decoder.mlp_bias):
        yield "its linear layers have biases, which mlx-lm's have no place for"
    if family in NARROW and decoder.head_dim * decoder.heads != decoder.hidden:
        width = decoder.hidden // decoder.heads
        yield f"its heads are {decoder.head_dim} wide; mlx-lm's are hidden / heads = {width}"
    if family != "gemma3_text" and decoder.attention_scale != decoder.head_dim**-0.5:
        yield "its attention is not divided by the root of a head's width, and mlx-lm's is"
    yield from _rope_faults(decoder, config)
    if family == "gemma3_text" and _pattern(decoder) is None:
        yield "mlx-lm wants every n-th layer global, and one at least: its layer_types say another"
    if family == "gpt2" and decoder.intermediate != 4 * decoder.hidden:
        yield f"its MLP is {decoder.intermediate} wide; mlx-lm's is 4 x {decoder.hidden}"
    if family == "gpt2" and not decoder.tied:
        yield "its head is a tensor of its own; mlx-lm's GPT-2 has the embedding for a head"


def _rope_faults(decoder: Decoder, config: Mapping[str, Any]) -> Iterator[str]:
    family = decoder.architecture.model_type
    ropes = {layer.rope: layer for layer in decoder.layers if layer.rope is not None}
    for rope, layer in ropes.items():
        bare = family == "qwen3_moe" or (family == "gemma3_text" and layer.window is not None)
        if bare and rope.kind != "default":
            yield f"its RoPE is scaled ({rope.kind}); mlx-lm scales none there"
        if rope.kind == "yarn":
            yield from _yarn_faults(rope, _yarn_said(config))
        if rope.kind == "longrope":
            said = config.get("rope_scaling") or config.get("rope_parameters") or {}
            if said.get("short_factor") != said.get("long_factor"):
                yield (
                    "its RoPE has other factors for short texts; mlx-lm uses long_factor for all"
                )


def _yarn_faults(rope: Rope, said: Mapping[str, Any]) -> Iterator[str]:
    """mlx-lm takes mscale alone, and no attention_factor."""
    if not math.isclose(rope.attention, mscale(rope.factor), rel_tol=1e-6):
        yield (
            f"its RoPE multiplies cos and sin by {rope.attention:.6g}; mlx-lm by "
            f"{mscale(rope.factor):.6g}"
        )
    elif said.get("mscale") or said.get("mscale_all_dim"):
        yield "its RoPE says mscale or mscale_all_dim, which mlx-lm takes otherwise"
    if not rope.truncate:
        yield "its RoPE is blended between dimensions (truncate); mlx-lm rounds them"
