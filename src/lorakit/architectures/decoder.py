"""A decoder-only transformer in numbers: its modules, its parameters, and where they are stored.

Plain values from which the graph builder, the checker and the converters work. Nothing here reads
a config or weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from lorakit.architectures.fields import Fields
from lorakit.architectures.layouts import HEAD, SEPARATE, Bias, Layout, Linear, Width

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding of a layer. Inverse frequencies follow from these (see graph.rope), except
    for longrope, whose factors are not kept: it is described for adapters alone."""

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    partial: float = 1.0  # the part of each head's dimensions that is rotated
    beta_fast: float = 32.0  # yarn: turns in the original context from which a frequency is kept
    beta_slow: float = 1.0  # and below which it is slowed by the whole factor
    truncate: bool = True  # yarn: the blend begins and ends at whole dimensions
    attention: float = 1.0  # what cos and sin are multiplied by

    @property
    def longest(self) -> int:
        """The context that yarn stretches it to; 0 for the other kinds."""
        return int(self.original_context * self.factor) if self.kind == "yarn" else 0


def mscale(factor: float, weight: float = 1.0) -> float:
    """What yarn multiplies cos and sin by, for a context that is longer by a factor.

    Peng et al. 2023, section 3.4; weight: as DeepSeek's configs say it.
    """
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    window: int | None  # sliding-window length in tokens, the token itself included; None = global
    rope: Rope | None  # None: learned positions
    sparse: bool = False  # its MLP is a mixture of experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The experts of every sparse layer."""

    count: int
    per_token: int
    intermediate: int  # of each
    normalised: bool  # the chosen experts' weights are divided by their sum


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShape:
    """A module that an adapter may target. For an embedding: in = vocabulary, out = hidden."""

    in_features: int
    out_features: int
    embedding: bool = False
    bias: bool = False
    transposed: bool = False  # the checkpoint holds [in, out], as GPT-2's Conv1D does
    experts: int | None = None  # the weights of so many experts; a delta has an axis for them
    parts: tuple[int, ...] = ()  # rows of each part of a fused module, such as q, k and v


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A row of the table: in what a family differs from Llama."""

    model_type: str
    model_class: str  # in transformers
    layout: Layout = SEPARATE
    gguf: str  # general.architecture of its GGUF files
    gguf_permuted: bool = False  # whose rows of q and k are in another order, for another RoPE
    norm_offset: float = 0.0  # norms multiply by (offset + weight); Gemma stores weight - 1
    scaled_embedding: bool = False  # embeddings times sqrt(hidden size)
    qk_norm: bool = False  # RMS norm of each head's query and key before RoPE
    qkv_bias: bool = False  # always, whatever the config says
    bias_keys: frozenset[str] = frozenset()  # of attention_bias, mlp_bias: those that it reads
    refused_keys: tuple[str, ...] = ()  # config fields that ask for what the row does not describe
    softcaps: bool = False  # reads the *_logit_softcapping fields
    spellings: tuple[tuple[str, str], ...] = ()  # what its config calls a field, first our word
    activation_key: str = "hidden_act"
    default_activation: str = "silu"
    default_context: int
    default_eps: float = 1e-6
    default_intermediate: int | None = None  # in hidden sizes, where the config may leave it out
    default_head_dim: int | None = None  # None: hidden size over heads
    default_kv_heads: int | None = None  # None: as many as heads
    default_query_scalar: int | None = None  # None: the head dimension, whatever the config says
    tied_by_default: bool = False
    layers: Callable[[Fields, int], tuple[Layer, ...]]
    experts: Callable[[Fields], Experts] | None = None

    @property
    def sandwich_norms(self) -> bool:
        """Norms after attention and MLP as well as before."""
        return len(self.layout.norms) == 4


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
    context: int  # max_position_embeddings, or what its RoPE was stretched to
    eps: float
    attention_scale: float
    activation: str
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool
    logit_softcap: float | None
    layers: tuple[Layer, ...]
    experts: Experts | None = None
    read: tuple[tuple[str, ModuleShape], ...] = ()  # of a foreign file, which says them itself

    @property
    def is_foreign(self) -> bool:
        """Whether it is known by its GGUF file alone; see architectures.foreign."""
        return self.architecture.layout.verbatim

    @property
    def embedding(self) -> str:
        """The module that looks tokens up."""
        return self.architecture.layout.embedding

    def fused(self, module: str) -> str | None:
        """The parameter of the model class that holds the weights of a layer's experts."""
        at, _, name = module.rpartition(".mlp.experts.")
        spec = {linear.name: linear.fused for linear in self.architecture.layout.sparse}
        found = spec.get(f"mlp.experts.{name}") if at else None
        return f"{at}.{found[0]}" if found is not None else None

    def linears(self, index: int) -> dict[str, ModuleShape]:
        """Linear modules of one layer by canonical name, in the order of computation.

        The matrices of a layer's experts are one module for each projection.
        """
        at = f"{self.architecture.layout.blocks}.{index}"
        return {f"{at}.{name}": shape for name, shape in self._shapes(self._specs(index))}

    def modules(self) -> dict[str, ModuleShape]:
        """Every module that a low-rank delta may target."""
        if self.is_foreign:
            return dict(self.read)
        layout = self.architecture.layout
        table = {layout.embedding: self._table(self.vocabulary)}
        if layout.positions is not None:
            table[layout.positions] = self._table(self.context)
        kinds = {True: self._shapes(layout.sparse), False: self._shapes(layout.linears)}
        for index, layer in enumerate(self.layers):
            at = f"{layout.blocks}.{index}."
            table.update((at + name, shape) for name, shape in kinds[layer.sparse])
        table[HEAD] = ModuleShape(in_features=self.hidden, out_features=self.vocabulary)
        return table

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of the model, as its class in transformers has them.

        A checkpoint holds each of them, in one of the spellings of `architectures.stored`. Those of
        a foreign file are not known.
        """
        if self.is_foreign:
            return {}
        table: dict[str, tuple[int, ...]] = {}
        for name, shape in self.modules().items():
            if (name == HEAD and self.tied) or shape.experts is not None:
                continue
            flipped = shape.embedding or shape.transposed
            weight = (shape.out_features, shape.in_features)
            table[f"{name}.weight"] = weight[::-1] if flipped else weight
            if shape.bias:
                table[f"{name}.bias"] = (shape.out_features,)
        for index in range(len(self.layers)):
            table |= self._fused_experts(index) | self._norms(index)
        return table | self._norm(self.architecture.layout.final_norm, self.hidden)

    def _specs(self, index: int) -> tuple[Linear, ...]:
        layout = self.architecture.layout
        return layout.sparse if self.layers[index].sparse else layout.linears

    def _shapes(self, linears: Iterable[Linear]) -> list[tuple[str, ModuleShape]]:
        return [(linear.name, self._shape(linear)) for linear in linears]

    def _shape(self, linear: Linear) -> ModuleShape:
        rows = tuple(self.width(width) for width in linear.outputs)
        return ModuleShape(
            in_features=self.width(linear.inputs),
            out_features=sum(rows),
            bias=self._has_bias(linear.bias),
            transposed=self.architecture.layout.transposed,
            experts=self.experts.count if linear.stacked and self.experts else None,
            parts=rows if len(rows) > 1 else (),
        )

    def width(self, width: Width) -> int:
        experts = self.experts
        return {
            "hidden": self.hidden,
            "queries": self.heads * self.head_dim,
            "keys": self.kv_heads * self.head_dim,
            "feedforward": self.intermediate,
            "expert": experts.intermediate if experts else 0,
            "experts": experts.count if experts else 0,
        }[width]

    def _has_bias(self, bias: Bias) -> bool:
        return {
            "qkv": self.qkv_bias,
            "output": self.output_bias,
            "mlp": self.mlp_bias,
            "always": True,
            "never": False,
        }[bias]

    def _table(self, rows: int) -> ModuleShape:
        return ModuleShape(in_features=rows, out_features=self.hidden, embedding=True)

    def _fused_experts(self, index: int) -> dict[str, tuple[int, ...]]:
        table: dict[str, tuple[int, ...]] = {}
        at = f"{self.architecture.layout.blocks}.{index}"
        for linear in self._specs(index):
            if linear.fused is None:
                continue
            shape, name = self._shape(linear), f"{at}.{linear.fused[0]}"
            rows = shape.out_features + (table[name][1] if name in table else 0)
            table[name] = (shape.experts or 0, rows, shape.in_features)
        return table

    def _norms(self, index: int) -> dict[str, tuple[int, ...]]:
        layout, at = self.architecture.layout, f"{self.architecture.layout.blocks}.{index}"
        table: dict[str, tuple[int, ...]] = {}
        for norm in layout.norms:
            table |= self._norm(f"{at}.{norm}", self.hidden)
        if self.architecture.qk_norm:
            table |= {f"{at}.self_attn.{n}_norm.weight": (self.head_dim,) for n in "qk"}
        return table

    def _norm(self, module: str, size: int) -> dict[str, tuple[int, ...]]:
        kinds = ("weight", "bias") if self.architecture.layout.norm_bias else ("weight",)
        return {f"{module}.{kind}": (size,) for kind in kinds}
