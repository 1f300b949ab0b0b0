"""What the modules of a family are called, for Hugging Face and for GGUF, and how wide they are.

A layout is data: widths are named ("hidden", "queries", ...) and become numbers in `Decoder`.
Names and shapes were read in the model classes of transformers 5, GGUF's names in llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

HEAD = "lm_head"
Width = Literal["hidden", "queries", "keys", "feedforward", "expert", "experts"]
Bias = Literal["qkv", "output", "mlp", "always", "never"]
Part = Literal["query", "key", "value", "output", "router", "gate", "up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear module of a block.

    parts: what it computes; several follow each other in the rows of a fused module. outputs: the
    width of each.
    stacked: one matrix for each expert; `fused` is then the parameter of the model class that holds
    it, and `part` its place in that parameter's rows.
    """

    name: str  # below the block, or below the expert
    parts: tuple[Part, ...]
    inputs: Width
    outputs: tuple[Width, ...]
    gguf: str | None  # below "blk.N."; None where llama.cpp has no such tensor
    bias: Bias = "never"
    stacked: bool = False
    fused: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names of a family. `linears` in the order of computation, `sparse` for MoE blocks."""

    root: str = "model."  # what a checkpoint of the bare model, without a head, leaves out
    embedding: str = "model.embed_tokens"
    positions: str | None = None  # the table of learned positions, for a family without RoPE
    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    gguf_norms: tuple[str, ...] = ("attn_norm", "ffn_norm")  # of `norms`, below "blk.N."
    norm_bias: bool = False  # LayerNorm with a bias, where the others have an RMS norm
    linears: tuple[Linear, ...]
    sparse: tuple[Linear, ...] = ()  # of a block with experts, in place of `linears`
    transposed: bool = False  # checkpoints hold linears as [in, out]
    verbatim: bool = False  # modules are called as a GGUF file calls their tensors, see `foreign`

    def linear(self, part: Part) -> Linear | None:
        """The linear of a block without experts that computes this, where there is one."""
        return next((linear for linear in self.linears if part in linear.parts), None)

    @property
    def gguf(self) -> dict[str, str]:
        """GGUF names of a block's linears by their own names."""
        linears = (*self.linears, *self.sparse)
        return {linear.name: linear.gguf for linear in linears if linear.gguf is not None}

    @property
    def stacked(self) -> frozenset[str]:
        """Linears of a block that are one matrix for each expert."""
        return frozenset(linear.name for linear in self.sparse if linear.stacked)

    @property
    def gguf_tables(self) -> dict[str, str]:
        """GGUF names of the embedding and the head. A delta of positions llama.cpp would ignore."""
        return {self.embedding: "token_embd", HEAD: "output"}


def _linear(
    name: str, part: Part, inputs: Width, outputs: Width, gguf: str, bias: Bias = "never"
) -> Linear:
    return Linear(name=name, parts=(part,), inputs=inputs, outputs=(outputs,), gguf=gguf, bias=bias)


_ATTENTION = (
    _linear("self_attn.q_proj", "query", "hidden", "queries", "attn_q", "qkv"),
    _linear("self_attn.k_proj", "key", "hidden", "keys", "attn_k", "qkv"),
    _linear("self_attn.v_proj", "value", "hidden", "keys", "attn_v", "qkv"),
    _linear("self_attn.o_proj", "output", "queries", "hidden", "attn_output", "output"),
)
_MLP = (
    _linear("mlp.gate_proj", "gate", "hidden", "feedforward", "ffn_gate", "mlp"),
    _linear("mlp.up_proj", "up", "hidden", "feedforward", "ffn_up", "mlp"),
    _linear("mlp.down_proj", "down", "feedforward", "hidden", "ffn_down", "mlp"),
)
_EXPERTS = (
    _linear("mlp.gate", "router", "hidden", "experts", "ffn_gate_inp"),
    Linear(
        name="mlp.experts.gate_proj",
        parts=("gate",),
        inputs="hidden",
        outputs=("expert",),
        gguf="ffn_gate_exps",
        stacked=True,
        fused=("mlp.experts.gate_up_proj", 0),
    ),
    Linear(
        name="mlp.experts.up_proj",
        parts=("up",),
        inputs="hidden",
        outputs=("expert",),
        gguf="ffn_up_exps",
        stacked=True,
        fused=("mlp.experts.gate_up_proj", 1),
    ),
    Linear(
        name="mlp.experts.down_proj",
        parts=("down",),
        inputs="expert",
        outputs=("hidden",),
        gguf="ffn_down_exps",
        stacked=True,
        fused=("mlp.experts.down_proj", 0),
    ),
)

SEPARATE = Layout(linears=_ATTENTION + _MLP)
SANDWICH = Layout(
    linears=_ATTENTION + _MLP,
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    gguf_norms=("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
)
MIXTURE = Layout(
    # llama.cpp knows no dense layers beside those with experts
    linears=_ATTENTION + tuple(replace(linear, gguf=None) for linear in _MLP),
    sparse=_ATTENTION + _EXPERTS,
)
FUSED = Layout(
    linears=(
        Linear(
            name="self_attn.qkv_proj",
            parts=("query", "key", "value"),
            inputs="hidden",
            outputs=("queries", "keys", "keys"),
            gguf="attn_qkv",
        ),
        _linear("self_attn.o_proj", "output", "queries", "hidden", "attn_output"),
        Linear(
            name="mlp.gate_up_proj",
            parts=("gate", "up"),
            inputs="hidden",
            outputs=("feedforward", "feedforward"),
            gguf="ffn_up",
        ),
        _linear("mlp.down_proj", "down", "feedforward", "hidden", "ffn_down"),
    )
)
CONV1D = Layout(
    root="transformer.",
    embedding="transformer.wte",
    positions="transformer.wpe",
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    norms=("ln_1", "ln_2"),
    norm_bias=True,
    linears=(
        Linear(
            name="attn.c_attn",
            parts=("query", "key", "value"),
            inputs="hidden",
            outputs=("hidden", "hidden", "hidden"),
            gguf="attn_qkv",
            bias="always",
        ),
        _linear("attn.c_proj", "output", "hidden", "hidden", "attn_output", "always"),
        _linear("mlp.c_fc", "up", "hidden", "feedforward", "ffn_up", "always"),
        _linear("mlp.c_proj", "down", "feedforward", "hidden", "ffn_down", "always"),
    ),
    transposed=True,
)
