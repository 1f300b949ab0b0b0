"""What kind of layer stands where, read from a config: RoPE, attention windows, experts.

Defaults, which hold where a config lacks a field, were read in the configuration classes of
transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorakit.architectures.decoder import Experts, Layer, Rope, RopeKind, mscale
from lorakit.architectures.fields import Config, Fields
from lorakit.errors import BaseModelError

MAX_EXPERTS = 4096

ROPE_KINDS: dict[str, RopeKind] = {"default": "default", "linear": "linear", "llama3": "llama3"}
PLAIN_ROPE_KINDS: dict[str, RopeKind] = {**ROPE_KINDS, "yarn": "yarn"}  # one for all layers
# Phi 3 said "su" first, and its class takes "yarn" for the same thing.
PHI_ROPE_KINDS: dict[str, RopeKind] = {
    "default": "default",
    "longrope": "longrope",
    "su": "longrope",
    "yarn": "longrope",
}


def _rope(fields: Fields) -> Rope:
    """Both spellings: transformers 5 `rope_parameters`, before that `rope_theta`/`rope_scaling`."""
    parameters = fields.table("rope_scaling") or fields.table("rope_parameters")
    if fields.number("partial_rotary_factor", 1.0) != 1.0:
        raise BaseModelError("config.json: partial_rotary_factor is not supported")
    theta = fields.number("rope_theta", 10000.0)
    rope = _rope_of(fields, parameters, theta, PLAIN_ROPE_KINDS)
    return _yarn(fields, parameters, rope) if rope.kind == "yarn" else rope


def _yarn(fields: Fields, parameters: Config, rope: Rope) -> Rope:
    """As transformers reads it (modeling_rope_utils.py): the config's own original context first;
    the attention factor from mscale and mscale_all_dim where both are said, else from the factor.
    """
    own = Fields(parameters, "config.json: RoPE")
    original = fields.whole("original_max_position_embeddings", rope.original_context)
    context = fields.whole("max_position_embeddings", original)
    factor = own.number("factor", context / original)
    if rope.theta <= 1:
        raise BaseModelError("config.json: RoPE scaled by yarn needs a rope_theta above 1")
    return replace(
        rope,
        factor=factor,
        original_context=original,
        beta_fast=own.number("beta_fast", 32.0),
        beta_slow=own.number("beta_slow", 1.0),
        truncate=own.flag("truncate", True),
        attention=own.number("attention_factor", _attention(own, factor)),
    )


def _attention(own: Fields, factor: float) -> float:
    """What yarn multiplies cos and sin by, if the config does not say it."""
    if own.get("mscale") and own.get("mscale_all_dim"):
        over, under = own.number("mscale", None), own.number("mscale_all_dim", None)
        return mscale(factor, over) / mscale(factor, under)
    return mscale(factor)


def _rope_of(
    fields: Fields,
    parameters: Config,
    theta: float,
    kinds: Mapping[str, RopeKind] = ROPE_KINDS,
) -> Rope:
    name = parameters.get("rope_type") or parameters.get("type") or "default"
    if not isinstance(name, str) or name not in kinds:
        raise BaseModelError(f"config.json: RoPE scaling {name!r:.80} is not supported")
    own = Fields(parameters, "config.json: RoPE")
    if own.number("partial_rotary_factor", 1.0) != 1.0:
        raise BaseModelError("config.json: partial_rotary_factor is not supported")
    scaled = kinds[name] in ("linear", "llama3")
    return Rope(
        theta=own.number("rope_theta", theta),
        kind=kinds[name],
        factor=own.number("factor", None) if scaled else 1.0,
        low_freq_factor=own.number("low_freq_factor", 1.0),
        high_freq_factor=own.number("high_freq_factor", 4.0),
        original_context=own.whole(
            "original_max_position_embeddings",
            fields.whole("max_position_embeddings", 8192),
        ),
    )


def gemma3_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    """Scaling, where there is any, belongs to the global layers."""
    by_kind = fields.table("rope_parameters")
    nested = Fields(by_kind, "config.json: rope_parameters")
    full = {**nested.table("full_attention"), **fields.table("rope_scaling")}
    window = fields.whole("sliding_window", 4096)
    theta, local_theta = (
        fields.number("rope_theta", 1e6),
        fields.number("rope_local_base_freq", 10000.0),
    )
    local = _rope_of(fields, nested.table("sliding_attention"), local_theta)
    layers = {
        "full_attention": Layer(window=None, rope=_rope_of(fields, full, theta)),
        "sliding_attention": Layer(window=window, rope=local),
    }
    kinds = fields.get("layer_types")
    if kinds is None:
        period = fields.whole("sliding_window_pattern", 6)
        kinds = [
            "full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(count)
        ]
    return _layers_by_kind(kinds, layers, count)


def _layers_by_kind(kinds: Any, by_kind: Mapping[str, Layer], count: int) -> tuple[Layer, ...]:
    known = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    if not known or len(kinds) != count or not set(kinds) <= set(by_kind):
        raise BaseModelError(
            f"config.json: layer_types must name one of {sorted(by_kind)} for each of the "
            f"{count} layers, found {kinds!r:.80}"
        )
    return tuple(by_kind[kind] for kind in kinds)


def llama_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    return (Layer(window=None, rope=_rope(fields)),) * count


def mistral_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    """A window of 4096 where the config says nothing, none where it says null."""
    unlimited = fields.get("sliding_window", 4096) is None
    window = None if unlimited else fields.whole("sliding_window", 4096)
    return (Layer(window=window, rope=_rope(fields)),) * count


def qwen_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    rope = _rope(fields)
    window = None
    if fields.flag("use_sliding_window", False):
        unlimited = fields.get("sliding_window", 4096) is None
        window = None if unlimited else fields.whole("sliding_window", 4096)
    by_kind = {"full_attention": Layer(window=None, rope=rope)}
    if window is not None:
        by_kind["sliding_attention"] = Layer(window=window, rope=rope)
    kinds = fields.get("layer_types")
    if kinds is None:
        full = count if window is None else min(_first_sliding(fields), count)
        kinds = ["full_attention"] * full + ["sliding_attention"] * (count - full)
    return _layers_by_kind(kinds, by_kind, count)


def _first_sliding(fields: Fields) -> int:
    none = fields.get("max_window_layers") == 0
    return 0 if none else fields.whole("max_window_layers", 28)


def qwen_moe_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    """Every `decoder_sparse_step`-th layer has experts, but for those in `mlp_only_layers`.

    One window for all layers, where `use_sliding_window` asks for any.
    """
    step = fields.whole("decoder_sparse_step", 1)
    dense = fields.get("mlp_only_layers")
    dense = [] if dense is None else dense
    if not isinstance(dense, list) or not all(type(index) is int for index in dense):
        raise BaseModelError(f"config.json: mlp_only_layers must be a list, found {dense!r:.80}")
    window = None
    if fields.flag("use_sliding_window", False) and fields.get("sliding_window", 4096) is not None:
        window = fields.whole("sliding_window", 4096)
    rope = _rope(fields)
    return tuple(
        Layer(window=window, rope=rope, sparse=(index + 1) % step == 0 and index not in dense)
        for index in range(count)
    )


def qwen_moe_experts(fields: Fields) -> Experts:
    return Experts(
        count=fields.whole("num_experts", 128, limit=MAX_EXPERTS),
        per_token=fields.whole("num_experts_per_tok", 8),
        intermediate=fields.whole("moe_intermediate_size", 768),
        normalised=fields.flag("norm_topk_prob", False),
    )


def phi_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    """A part of each head may be rotated; longrope is known by name (see Rope)."""
    parameters = fields.table("rope_scaling") or fields.table("rope_parameters")
    partial = fields.number("partial_rotary_factor", 1.0)
    partial = Fields(parameters, "config.json: RoPE").number("partial_rotary_factor", partial)
    original = fields.whole("original_max_position_embeddings", 4096)
    whole = {**parameters, "partial_rotary_factor": 1.0}
    whole["original_max_position_embeddings"] = original  # its class puts its own there
    theta = fields.number("rope_theta", 10000.0)
    rope = replace(_rope_of(fields, whole, theta, PHI_ROPE_KINDS), partial=partial)
    window = None
    if fields.get("sliding_window") is not None:
        window = fields.whole("sliding_window")
    return (Layer(window=window, rope=rope),) * count


def positioned_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    """Learned positions, added to the embedding."""
    return (Layer(window=None, rope=None),) * count
