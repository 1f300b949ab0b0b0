"""What lorakit knows of each model family: one row per `model_type` of a Hugging Face config.

`describe(config)` turns a config into a `Decoder`: plain numbers from which the graph builder, the
checker and the converters work. Nothing here reads weights. Shapes and defaults, which hold where
a config lacks a field, were read in the configuration and model classes of transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lorakit.errors import BaseModelError

Config = Mapping[str, Any]
MAX_LAYERS = 4096
RopeKind = Literal["default", "linear", "llama3"]
ROPE_KINDS: dict[str, RopeKind] = {"default": "default", "linear": "linear", "llama3": "llama3"}
# Modules of a layer as GGUF names them ("blk.N.<name>"), the same in every family of the table.
GGUF_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_TABLES = {"model.embed_tokens": "token_embd", "lm_head": "output"}
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
    kind: RopeKind = "default"
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
    transposed: bool = False  # the checkpoint holds [in, out], as GPT-2's Conv1D does
    experts: int | None = None  # the weights of so many experts; a delta has an axis for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A row of the table: in what a family differs from Llama."""

    model_type: str
    gguf: str  # general.architecture of its GGUF files
    gguf_permuted: bool = False  # whose rows of q and k are in another order, for another RoPE
    norm_offset: float = 0.0  # norms multiply by (offset + weight); Gemma stores weight - 1
    scaled_embedding: bool = False  # embeddings times sqrt(hidden size)
    qk_norm: bool = False  # RMS norm of each head's query and key before RoPE
    sandwich_norms: bool = False  # norms after attention and MLP as well as before
    qkv_bias: bool = False  # always, whatever the config says
    bias_keys: frozenset[str] = frozenset()  # of attention_bias, mlp_bias: those that it reads
    softcaps: bool = False  # reads the *_logit_softcapping fields
    activation_key: str = "hidden_act"
    default_activation: str = "silu"
    default_context: int
    default_head_dim: int | None = None  # None: hidden size over heads
    default_kv_heads: int | None = None  # None: as many as heads
    default_query_scalar: int | None = None  # None: the head dimension, whatever the config says
    tied_by_default: bool = False
    layers: Callable[[Fields, int], tuple[Layer, ...]]


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
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise BaseModelError(
            f"the architecture {model_type!r:.80} is not supported",
            code="architecture_unknown",
            hint=f"supported model types: {', '.join(sorted(ARCHITECTURES))}",
        )
    row, fields = ARCHITECTURES[model_type], Fields(config)
    _refuse(config, row)
    count = fields.whole("num_hidden_layers", limit=MAX_LAYERS)
    heads = fields.whole("num_attention_heads")
    hidden = fields.whole("hidden_size")
    kv_heads = heads
    if config.get("num_key_value_heads", row.default_kv_heads) is not None:
        kv_heads = fields.whole("num_key_value_heads", row.default_kv_heads)
    head_dim = fields.whole("head_dim", row.default_head_dim or hidden // heads)
    if heads % kv_heads:
        raise BaseModelError(f"config.json: {heads} heads do not divide into {kv_heads} KV heads")
    scalar = float(head_dim)
    if row.default_query_scalar is not None:
        scalar = fields.number("query_pre_attn_scalar", row.default_query_scalar)
    biases = {key for key in row.bias_keys if fields.flag(key, False)}
    return Decoder(
        architecture=row,
        hidden=hidden,
        intermediate=fields.whole("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=fields.whole("vocab_size"),
        context=fields.whole("max_position_embeddings", row.default_context),
        eps=fields.number("rms_norm_eps", 1e-6),
        attention_scale=scalar**-0.5,
        activation=_activation(fields, row),
        qkv_bias=row.qkv_bias or "attention_bias" in biases,
        output_bias="attention_bias" in biases,
        mlp_bias="mlp_bias" in biases,
        tied=fields.flag("tie_word_embeddings", row.tied_by_default),
        logit_softcap=_softcap(fields, row),
        layers=row.layers(fields, count),
    )


def _refuse(config: Config, row: Architecture) -> None:
    """What a config may ask for and the row cannot do."""
    keys = ["use_bidirectional_attention", "quantization_config"]
    if row.softcaps:
        keys.append("attn_logit_softcapping")
    asked = [f"{key} = {config[key]!r:.80}" for key in keys if config.get(key)]
    if asked:
        raise BaseModelError("config.json asks for what lorakit cannot do", items=asked)


def _activation(fields: Fields, row: Architecture) -> str:
    name = fields.config.get(row.activation_key) or row.default_activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise BaseModelError(
            f"config.json: the activation {name!r:.80} is not supported",
            hint=f"supported: {', '.join(ACTIVATIONS)}",
        )
    return ACTIVATIONS[name]


def _softcap(fields: Fields, row: Architecture) -> float | None:
    if not row.softcaps or not fields.config.get("final_logit_softcapping"):
        return None
    return fields.number("final_logit_softcapping", None)


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access to a config that nobody has checked; `where` is what errors call it."""

    config: Config
    where: str = "config.json"

    def whole(self, key: str, default: int | None = None, *, limit: int = 1 << 31) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
            raise BaseModelError(
                f"{self.where}: {key} must be a whole number from 1 to {limit}, found {value!r:.80}"
            )
        return value

    def number(self, key: str, default: float | None) -> float:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise BaseModelError(
                f"{self.where}: {key} must be a positive number, found {value!r:.80}"
            )
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise BaseModelError(f"{self.where}: {key} must be true or false, found {value!r:.80}")
        return value

    def table(self, key: str) -> Config:
        value = self.config.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise BaseModelError(f"{self.where}: {key} must be an object, found {value!r:.80}")
        return value or {}


def _rope(fields: Fields) -> Rope:
    """Both spellings: transformers 5 `rope_parameters`, before that `rope_theta`/`rope_scaling`."""
    parameters = fields.table("rope_scaling") or fields.table("rope_parameters")
    if fields.number("partial_rotary_factor", 1.0) != 1.0:
        raise BaseModelError("config.json: partial_rotary_factor is not supported")
    return _rope_of(fields, parameters, fields.number("rope_theta", 10000.0))


def _rope_of(fields: Fields, parameters: Config, theta: float) -> Rope:
    name = parameters.get("rope_type") or parameters.get("type") or "default"
    if not isinstance(name, str) or name not in ROPE_KINDS:
        raise BaseModelError(f"config.json: RoPE scaling {name!r:.80} is not supported")
    own = Fields(parameters, "config.json: RoPE")
    if own.number("partial_rotary_factor", 1.0) != 1.0:
        raise BaseModelError("config.json: partial_rotary_factor is not supported")
    scaled = name != "default"
    return Rope(
        theta=own.number("rope_theta", theta),
        kind=ROPE_KINDS[name],
        factor=own.number("factor", None) if scaled else 1.0,
        low_freq_factor=own.number("low_freq_factor", 1.0),
        high_freq_factor=own.number("high_freq_factor", 4.0),
        original_context=own.whole(
            "original_max_position_embeddings",
            fields.whole("max_position_embeddings", 8192),
        ),
    )


def _gemma3_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
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
    kinds = fields.config.get("layer_types")
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


def _llama_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    return (Layer(window=None, rope=_rope(fields)),) * count


def _mistral_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    """A window of 4096 where the config says nothing, none where it says null."""
    unlimited = fields.config.get("sliding_window", 4096) is None
    window = None if unlimited else fields.whole("sliding_window", 4096)
    return (Layer(window=window, rope=_rope(fields)),) * count


def _qwen_layers(fields: Fields, count: int) -> tuple[Layer, ...]:
    rope = _rope(fields)
    window = None
    if fields.flag("use_sliding_window", False):
        unlimited = fields.config.get("sliding_window", 4096) is None
        window = None if unlimited else fields.whole("sliding_window", 4096)
    by_kind = {"full_attention": Layer(window=None, rope=rope)}
    if window is not None:
        by_kind["sliding_attention"] = Layer(window=window, rope=rope)
    kinds = fields.config.get("layer_types")
    if kinds is None:
        full = count if window is None else min(_first_sliding(fields), count)
        kinds = ["full_attention"] * full + ["sliding_attention"] * (count - full)
    return _layers_by_kind(kinds, by_kind, count)


def _first_sliding(fields: Fields) -> int:
    none = fields.config.get("max_window_layers") == 0
    return 0 if none else fields.whole("max_window_layers", 28)


ARCHITECTURES = {
    row.model_type: row
    for row in (
        Architecture(
            model_type="gemma3_text",
            gguf="gemma3",
            norm_offset=1.0,
            scaled_embedding=True,
            qk_norm=True,
            sandwich_norms=True,
            bias_keys=frozenset({"attention_bias"}),
            softcaps=True,
            activation_key="hidden_activation",
            default_activation="gelu_pytorch_tanh",
            default_context=131072,
            default_head_dim=256,
            default_kv_heads=4,
            default_query_scalar=256,
            tied_by_default=True,
            layers=_gemma3_layers,
        ),
        Architecture(
            model_type="llama",
            gguf="llama",
            gguf_permuted=True,
            bias_keys=frozenset({"attention_bias", "mlp_bias"}),
            default_context=2048,
            layers=_llama_layers,
        ),
        Architecture(
            model_type="mistral",
            gguf="llama",
            gguf_permuted=True,
            default_context=131072,
            default_kv_heads=8,
            layers=_mistral_layers,
        ),
        Architecture(
            model_type="qwen2",
            gguf="qwen2",
            qkv_bias=True,
            default_context=32768,
            default_kv_heads=32,
            layers=_qwen_layers,
        ),
        Architecture(
            model_type="qwen3",
            gguf="qwen3",
            qk_norm=True,
            bias_keys=frozenset({"attention_bias"}),
            default_context=32768,
            default_head_dim=128,
            default_kv_heads=32,
            layers=_qwen_layers,
        ),
    )
}
