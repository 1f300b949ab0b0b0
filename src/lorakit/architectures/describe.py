"""A config.json -> the Decoder that it describes."""

from __future__ import annotations

from lorakit.architectures.decoder import Architecture, Decoder
from lorakit.architectures.fields import Config, Fields
from lorakit.architectures.inner import INNER, text_config
from lorakit.architectures.table import ARCHITECTURES
from lorakit.errors import BaseModelError

MAX_LAYERS = 4096
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
}


def describe(config: Config) -> Decoder:
    """The Decoder that a config.json describes; of a model that also sees, the text model's.

    Raises BaseModelError: `architecture_unknown` for a model_type without a row, `base_invalid`
    for a config that lacks a number or asks for what the row cannot do.
    """
    config = text_config(config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise BaseModelError(
            f"the architecture {model_type!r:.80} is not supported",
            code="architecture_unknown",
            hint=f"supported model types: {', '.join(sorted({*ARCHITECTURES, *INNER}))}",
        )
    row = ARCHITECTURES[model_type]
    fields = Fields(config, spellings=dict(row.spellings))
    _refuse(config, row)
    count = fields.whole("num_hidden_layers", limit=MAX_LAYERS)
    heads = fields.whole("num_attention_heads")
    hidden = fields.whole("hidden_size")
    kv_heads = heads
    if fields.get("num_key_value_heads", row.default_kv_heads) is not None:
        kv_heads = fields.whole("num_key_value_heads", row.default_kv_heads)
    head_dim = fields.whole("head_dim", row.default_head_dim or hidden // heads)
    if heads % kv_heads:
        raise BaseModelError(f"config.json: {heads} heads do not divide into {kv_heads} KV heads")
    scalar = float(head_dim)
    if row.default_query_scalar is not None:
        scalar = fields.number("query_pre_attn_scalar", row.default_query_scalar)
    layers = row.layers(fields, count)
    longest = max(layer.rope.longest if layer.rope else 0 for layer in layers)
    biases = {key for key in row.bias_keys if fields.flag(key, False)}
    return Decoder(
        architecture=row,
        hidden=hidden,
        intermediate=fields.whole("intermediate_size", (row.default_intermediate or 0) * hidden),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=fields.whole("vocab_size"),
        context=max(fields.whole("max_position_embeddings", row.default_context), longest),
        eps=fields.number("rms_norm_eps", row.default_eps),
        attention_scale=scalar**-0.5 if fields.flag("scale_attn_weights", True) else 1.0,
        activation=_activation(fields, row),
        qkv_bias=row.qkv_bias or "attention_bias" in biases,
        output_bias="attention_bias" in biases,
        mlp_bias="mlp_bias" in biases,
        tied=fields.flag("tie_word_embeddings", row.tied_by_default),
        logit_softcap=_softcap(fields, row),
        layers=layers,
        experts=row.experts(fields) if row.experts is not None else None,
    )


def _refuse(config: Config, row: Architecture) -> None:
    """What a config may ask for and the row cannot do."""
    keys = ["use_bidirectional_attention", "quantization_config", *row.refused_keys]
    if row.softcaps:
        keys.append("attn_logit_softcapping")
    asked = [f"{key} = {config[key]!r:.80}" for key in keys if config.get(key)]
    if asked:
        raise BaseModelError("config.json asks for what lorakit cannot do", items=asked)


def _activation(fields: Fields, row: Architecture) -> str:
    name = fields.get(row.activation_key) or row.default_activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise BaseModelError(
            f"config.json: the activation {name!r:.80} is not supported",
            hint=f"supported: {', '.join(ACTIVATIONS)}",
        )
    return ACTIVATIONS[name]


def _softcap(fields: Fields, row: Architecture) -> float | None:
    if not row.softcaps or not fields.get("final_logit_softcapping"):
        return None
    return fields.number("final_logit_softcapping", None)
