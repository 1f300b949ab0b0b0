"""What lorakit knows of each model family: one row per `model_type` of a Hugging Face config.

`describe(config)` turns a config into a `Decoder`: plain numbers from which the graph builder, the
checker and the converters work. Nothing here reads weights. Shapes and defaults were read in the
configuration classes of transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lorakit.errors import BaseModelError

Config = Mapping[str, Any]
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding of a layer: inverse frequencies follow from these (see graph.rope)."""

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    window: int | None  # sliding-window length in tokens, the token itself included; None = global
    rope: Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShape:
    """A module that an adapter may target. For an embedding: in = vocabulary, out = hidden."""

    in_features: int
    out_features: int
    embedding: bool = False
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A row of the table: in what a family differs from Llama."""

    model_type: str
    norm_offset: float = 0.0  # norms multiply by (offset + weight); Gemma stores weight - 1
    scaled_embedding: bool = False  # embeddings times sqrt(hidden size)
    qk_norm: bool = False  # RMS norm of each head's query and key before RoPE
    sandwich_norms: bool = False  # norms after attention and MLP as well as before
    qkv_bias: bool = False
    activation_key: str = "hidden_act"
    default_activation: str = "silu"
    default_head_dim: int | None = None  # None: hidden size over heads
    tied_by_default: bool = False
    layers: Callable[[Config, int], tuple[Layer, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A decoder-only transformer in numbers."""

    architecture: Architecture
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int  # max_position_embeddings
    eps: float
    attention_scale: float
    activation: str
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool
    logit_softcap: float | None
    layers: tuple[Layer, ...]

    def linears(self, index: int) -> dict[str, ModuleShape]:
        """Linear modules of one layer by canonical name, in the order of computation."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        at, mlp = f"model.layers.{index}.self_attn", f"model.layers.{index}.mlp"

        def linear(n_in: int, n_out: int, bias: bool) -> ModuleShape:
            return ModuleShape(in_features=n_in, out_features=n_out, bias=bias)

        return {
            f"{at}.q_proj": linear(h, q, self.qkv_bias),
            f"{at}.k_proj": linear(h, kv, self.qkv_bias),
            f"{at}.v_proj": linear(h, kv, self.qkv_bias),
            f"{at}.o_proj": linear(q, h, self.output_bias),
            f"{mlp}.gate_proj": linear(h, self.intermediate, self.mlp_bias),
            f"{mlp}.up_proj": linear(h, self.intermediate, self.mlp_bias),
            f"{mlp}.down_proj": linear(self.intermediate, h, self.mlp_bias),
        }

    def modules(self) -> dict[str, ModuleShape]:
        """Every module that a low-rank delta may target."""
        table = {
            "model.embed_tokens": ModuleShape(
                in_features=self.vocabulary, out_features=self.hidden, embedding=True
            )
        }
        for index in range(len(self.layers)):
            table |= self.linears(index)
        table["lm_head"] = ModuleShape(in_features=self.hidden, out_features=self.vocabulary)
        return table

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint of this shape must hold."""
        table: dict[str, tuple[int, ...]] = {}
        for name, shape in self.modules().items():
            if shape.embedding:
                table[f"{name}.weight"] = (shape.in_features, shape.out_features)
            elif name != "lm_head" or not self.tied:
                table[f"{name}.weight"] = (shape.out_features, shape.in_features)
                if shape.bias:
                    table[f"{name}.bias"] = (shape.out_features,)
        for index in range(len(self.layers)):
            at = f"model.layers.{index}"
            norms = ["input_layernorm", "post_attention_layernorm"]
            if self.architecture.sandwich_norms:
                norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
            table |= {f"{at}.{norm}.weight": (self.hidden,) for norm in norms}
            if self.architecture.qk_norm:
                table |= {f"{at}.self_attn.{n}_norm.weight": (self.head_dim,) for n in "qk"}
        table["model.norm.weight"] = (self.hidden,)
        return table


def describe(config: Config) -> Decoder:
    """The Decoder that a config.json describes.

    Raises BaseModelError: `architecture_unknown` for a model_type without a row, `base_invalid`
    for a config that lacks a number or asks for what the row cannot do.
    """
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise BaseModelError(
            f"the architecture {model_type!r} is not supported",
            code="architecture_unknown",
            hint=f"supported model types: {', '.join(sorted(ARCHITECTURES))}",
        )
    row = ARCHITECTURES[str(model_type)]
    count = _positive(config, "num_hidden_layers")
    heads = _positive(config, "num_attention_heads")
    hidden = _positive(config, "hidden_size")
    kv_heads = _positive(config, "num_key_value_heads", heads)
    head_dim = _positive(config, "head_dim", row.default_head_dim or hidden // heads)
    if heads % kv_heads:
        raise BaseModelError(f"config.json: {heads} heads do not divide into {kv_heads} KV heads")
    activation = str(config.get(row.activation_key) or row.default_activation)
    if activation not in ACTIVATIONS:
        raise BaseModelError(
            f"config.json: activation {activation!r} is not supported",
            hint=f"supported: {', '.join(ACTIVATIONS)}",
        )
    for key in ("attn_logit_softcapping", "use_bidirectional_attention"):
        if config.get(key):
            raise BaseModelError(f"config.json: {key} = {config[key]} is not supported")
    query_scalar = float(config.get("query_pre_attn_scalar") or row.default_head_dim or head_dim)
    bias = bool(config.get("attention_bias", row.qkv_bias))
    softcap = config.get("final_logit_softcapping")
    return Decoder(
        architecture=row,
        hidden=hidden,
        intermediate=_positive(config, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=_positive(config, "vocab_size"),
        context=_positive(config, "max_position_embeddings"),
        eps=float(config.get("rms_norm_eps", 1e-6)),
        attention_scale=query_scalar**-0.5,
        activation=ACTIVATIONS[activation],
        qkv_bias=bias or row.qkv_bias,
        output_bias=bias and not row.qkv_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        tied=bool(config.get("tie_word_embeddings", row.tied_by_default)),
        logit_softcap=float(softcap) if softcap else None,
        layers=row.layers(config, count),
    )


def _positive(config: Config, key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise BaseModelError(f"config.json: {key} must be a positive integer, found {value!r}")
    return value


def _rope(config: Config, kind: str = "", *, theta: float = 10000.0) -> Rope:
    """Both spellings: transformers 5 `rope_parameters`, before that `rope_theta`/`rope_scaling`."""
    parameters = config.get("rope_parameters") or {}
    parameters = parameters.get(kind, parameters) if kind else parameters
    if not parameters:
        scaling = config.get("rope_scaling") or {}
        parameters = {"rope_theta": config.get("rope_theta", theta), **scaling}
    name = parameters.get("rope_type", parameters.get("type", "default"))
    if name not in ("default", "linear", "llama3"):
        raise BaseModelError(f"config.json: RoPE scaling {name!r} is not supported")
    if float(parameters.get("partial_rotary_factor", 1.0)) != 1.0:
        raise BaseModelError("config.json: partial_rotary_factor is not supported")
    return Rope(
        theta=float(parameters.get("rope_theta", theta)),
        kind=name,
        factor=float(parameters.get("factor", 1.0)),
        low_freq_factor=float(parameters.get("low_freq_factor", 1.0)),
        high_freq_factor=float(parameters.get("high_freq_factor", 4.0)),
        original_context=int(parameters.get("original_max_position_embeddings", 8192)),
    )


def _gemma3_layers(config: Config, count: int) -> tuple[Layer, ...]:
    kinds = config.get("layer_types")
    if kinds is None:
        period = int(
            config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
        )
        kinds = [
            "full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(count)
        ]
    if "rope_parameters" in config:
        full = _rope(config, "full_attention", theta=1e6)
        local = _rope(config, "sliding_attention")
    else:
        full = _rope(config, theta=1e6)
        local = Rope(theta=float(config.get("rope_local_base_freq", 10000.0)))
    window = int(config.get("sliding_window") or 4096)
    by_kind = {
        "full_attention": Layer(window=None, rope=full),
        "sliding_attention": Layer(window=window, rope=local),
    }
    return _layers_by_kind(kinds, by_kind, count)


def _layers_by_kind(kinds: Any, by_kind: Mapping[str, Layer], count: int) -> tuple[Layer, ...]:
    if len(kinds) != count or not set(kinds) <= set(by_kind):
        raise BaseModelError(
            f"config.json: layer_types must name one of {sorted(by_kind)} for each of the "
            f"{count} layers, found {list(kinds)[:8]}"
        )
    return tuple(by_kind[kind] for kind in kinds)


def _llama_layers(config: Config, count: int) -> tuple[Layer, ...]:
    return (Layer(window=None, rope=_rope(config)),) * count


def _mistral_layers(config: Config, count: int) -> tuple[Layer, ...]:
    window = config.get("sliding_window")
    return (Layer(window=int(window) if window else None, rope=_rope(config)),) * count


def _qwen_layers(config: Config, count: int) -> tuple[Layer, ...]:
    rope = _rope(config)
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    by_kind = {
        "full_attention": Layer(window=None, rope=rope),
        "sliding_attention": Layer(window=int(window) if window else None, rope=rope),
    }
    kinds = config.get("layer_types")
    if kinds is None:
        full = int(config.get("max_window_layers", 28)) if window else count
        kinds = ["full_attention"] * min(full, count) + ["sliding_attention"] * max(0, count - full)
    return _layers_by_kind(kinds, by_kind, count)


ARCHITECTURES = {
    row.model_type: row
    for row in (
        Architecture(
            model_type="gemma3_text",
            norm_offset=1.0,
            scaled_embedding=True,
            qk_norm=True,
            sandwich_norms=True,
            activation_key="hidden_activation",
            default_activation="gelu_pytorch_tanh",
            default_head_dim=256,
            tied_by_default=True,
            layers=_gemma3_layers,
        ),
        Architecture(model_type="llama", layers=_llama_layers),
        Architecture(model_type="mistral", layers=_mistral_layers),
        Architecture(model_type="qwen2", qkv_bias=True, layers=_qwen_layers),
        Architecture(model_type="qwen3", qk_norm=True, layers=_qwen_layers),
    )
}
