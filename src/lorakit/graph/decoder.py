"""The decoder as a graph: from a row's hidden states to the logits of the positions asked for.

Inputs, beside LoRA tensors (see graph.lora):
    hidden   float32 [batch, new, hidden]  embedded tokens, scaled as the architecture wants
    lengths  int32 [batch]                 tokens in the row after this step, less one
    total    int32 []                      the longest row's tokens after this step
    keep     int64 [kept]                  which of the new positions get logits
    past.N.key, past.N.value   float32 [batch, kv_heads, capacity, head_dim]
Outputs:
    logits   float32 [batch, kept, vocabulary]  before soft-capping
    final    float32 [batch, kept, hidden]      what the vocabulary projection read
    present.N.key, present.N.value         to be bound to the memory of their pasts

It computes what transformers computes in float32; the operators are onnxruntime's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.architectures import Decoder, Layer, Rope
from lorakit.base.folder import Base
from lorakit.errors import CapabilityError
from lorakit.graph.lora import HEAD, LoraTarget, lora, targets
from lorakit.graph.quantize import FORMS, Form
from lorakit.graph.rope import tables
from lorakit.graph.weights import Store
from lorakit.graph.writer import CONTRIB, Shape, Writer

VERSION = 5  # raise it whenever a graph built before would no longer fit the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """What of a graph is a choice. Each field is part of a cached graph's key."""

    linear: str = "float32"  # a name in quantize.FORMS
    head: str = "float32"  # likewise, for the vocabulary projection
    context: int = 8192  # positions in the RoPE tables


def unsupported(decoder: Decoder) -> list[str]:
    """What a base has that the graph does not compute, one line each."""
    layout = decoder.architecture.layout
    ropes = [layer.rope for layer in decoder.layers]
    found = {
        "a mixture of experts": any(layer.sparse for layer in decoder.layers),
        "learned positions": layout.positions is not None,
        "LayerNorm with a bias": layout.norm_bias,
        "fused projections": any(shape.parts for shape in decoder.modules().values()),
        "RoPE on a part of each head": any(rope and rope.partial != 1.0 for rope in ropes),
        "longrope": any(rope and rope.kind == "longrope" for rope in ropes),
    }
    return [name for name, there in found.items() if there]


def require_supported(decoder: Decoder) -> None:
    """Raise CapabilityError for a base whose graph cannot be built, naming all of why."""
    if faults := unsupported(decoder):
        raise CapabilityError(
            f"the onnx engine does not compute {decoder.architecture.model_type} bases",
            items=faults,
            hint='open it with engine="torch"',
        )


def build(base: Base, options: GraphOptions, store: Store) -> bytes:
    """The serialized model; its weights go into `store`, one tensor at a time.

    Raises CapabilityError for an architecture that the graph does not compute.
    """
    require_supported(base.decoder)
    return _Builder(base, options, store).build()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """Names of the inputs that all layers share."""

    lengths: str
    total: str


@dataclass(slots=True)
class _Builder:
    base: Base
    options: GraphOptions
    store: Store
    writer: Writer = field(init=False)
    decoder: Decoder = field(init=False)
    targets: dict[str, LoraTarget] = field(init=False)
    ropes: dict[Rope, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writer = Writer(self.store)
        self.decoder = self.base.decoder
        self.targets = targets(self.decoder)

    def build(self) -> bytes:
        w, d = self.writer, self.decoder
        x = w.input("hidden", ["batch", "new", d.hidden])
        step = _Step(
            lengths=w.input("lengths", ["batch"], TensorProto.INT32),
            total=w.input("total", [], TensorProto.INT32),
        )
        for index in range(len(d.layers)):
            x = self.block(index, x, step)
        self.head(x)
        return w.finish()

    def block(self, index: int, x: str, step: _Step) -> str:
        """Attention and MLP, each with its norms, each added to the residual."""
        at = f"model.layers.{index}"
        sandwich = self.decoder.architecture.sandwich_norms
        y = self.attention(index, self.norm(f"{at}.input_layernorm", x), step)
        if sandwich:
            y = self.norm(f"{at}.post_attention_layernorm", y)
        x = self.writer.node("Add", [x, y], f"{at}.attended")
        before = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
        y = self.mlp(index, self.norm(f"{at}.{before}", x))
        if sandwich:
            y = self.norm(f"{at}.post_feedforward_layernorm", y)
        return self.writer.node("Add", [x, y], f"{at}.out")

    def attention(self, index: int, x: str, step: _Step) -> str:
        """Grouped-query attention over the shared KV buffer, RoPE inside the operator."""
        w, d = self.writer, self.decoder
        layer, at = d.layers[index], f"model.layers.{index}.self_attn"
        query, key, value = (self.linear(f"{at}.{n}_proj", x) for n in "qkv")
        if d.architecture.qk_norm:
            query = self.head_norm(f"{at}.q_norm", query, d.heads)
            key = self.head_norm(f"{at}.k_norm", key, d.kv_heads)
        cache: Shape = ["batch", d.kv_heads, "capacity", d.head_dim]
        past = [w.input(f"past.{index}.{part}", cache) for part in ("key", "value")]
        present = [w.output(f"present.{index}.{part}", cache) for part in ("key", "value")]
        attended = w.node(
            "GroupQueryAttention",
            [query, key, value, *past, step.lengths, step.total, *self.rope(layer)],
            f"{at}.attention",
            domain=CONTRIB,
            outputs=[f"{at}.attention", *present],
            num_heads=d.heads,
            kv_num_heads=d.kv_heads,
            do_rotary=1,
            scale=d.attention_scale,
            local_window_size=layer.window or -1,
        )
        return self.linear(f"{at}.o_proj", attended)

    def mlp(self, index: int, x: str) -> str:
        w, at = self.writer, f"model.layers.{index}.mlp"
        gate = self.activation(f"{at}.act", self.linear(f"{at}.gate_proj", x))
        up = self.linear(f"{at}.up_proj", x)
        return self.linear(f"{at}.down_proj", w.node("Mul", [gate, up], f"{at}.gated"))

    def head(self, x: str) -> None:
        """Logits, for the positions in `keep` alone."""
        w, d = self.writer, self.decoder
        keep = w.input("keep", ["kept"], TensorProto.INT64)
        final = self.norm("model.norm", w.node("Gather", [x, keep], "kept", axis=1))
        logits = self.plain_linear(HEAD, final, FORMS[self.options.head])
        w.node("Identity", [logits], w.output("logits", ["batch", "kept", d.vocabulary]))
        w.node("Identity", [final], w.output("final", ["batch", "kept", d.hidden]))

    def linear(self, module: str, x: str) -> str:
        """A linear layer of a block, with its LoRA inputs."""
        y = self.plain_linear(module, x, FORMS[self.options.linear])
        return lora(self.writer, self.targets[module], x, y)

    def plain_linear(self, module: str, x: str, form: Form) -> str:
        y = form(self.writer, module, x, self.base.tensor(f"{module}.weight"))
        bias = f"{module}.bias"
        if bias in self.base.tensors:
            stored = self.writer.weight(bias, _float32(self.base.tensor(bias)))
            y = self.writer.node("Add", [y, stored], f"{module}.biased")
        return y

    def norm(self, module: str, x: str) -> str:
        scale = _float32(self.base.tensor(f"{module}.weight"))
        scale = scale + np.float32(self.decoder.architecture.norm_offset)
        return self.writer.node(
            "SimplifiedLayerNormalization",
            [x, self.writer.weight(f"{module}.weight", scale)],
            f"{module}.normed",
            axis=-1,
            epsilon=self.decoder.eps,
        )

    def head_norm(self, module: str, x: str, heads: int) -> str:
        """RMS norm of each head's vector by itself."""
        w, dim = self.writer, self.decoder.head_dim
        split = w.node("Reshape", [x, w.shape(0, -1, heads, dim)], f"{module}.heads")
        normed = self.norm(module, split)
        return w.node("Reshape", [normed, w.shape(0, -1, heads * dim)], f"{module}.joined")

    def rope(self, layer: Layer) -> tuple[str, str]:
        """cos and sin tables, shared by all layers of the same kind."""
        assert layer.rope is not None  # see `unsupported`
        if layer.rope not in self.ropes:
            name = f"rope.{len(self.ropes)}"
            cos, sin = tables(layer.rope, self.decoder.head_dim, self.options.context)
            w = self.writer
            self.ropes[layer.rope] = w.weight(f"{name}.cos", cos), w.weight(f"{name}.sin", sin)
        return self.ropes[layer.rope]

    def activation(self, name: str, x: str) -> str:
        w = self.writer
        if self.decoder.activation == "silu":
            return self.silu(name, x)
        if self.decoder.activation == "gelu_tanh":
            return w.node("FastGelu", [x], name, domain=CONTRIB)
        return w.node("Gelu", [x], name, domain=CONTRIB)

    def silu(self, name: str, x: str) -> str:
        """x / (1 + exp(-x)). With float32 weights through Exp, which rounds half as much as the
        logistic approximation of the fused operator."""
        w = self.writer
        if self.options.linear != "float32":
            return w.node("QuickGelu", [x], name, domain=CONTRIB, alpha=1.0)
        one = w.weight("one", np.array(1.0, np.float32))
        exp = w.node("Exp", [w.node("Neg", [x], f"{name}.neg")], f"{name}.exp")
        whole = w.node("Add", [one, exp], f"{name}.whole")
        return w.node("Mul", [x, w.node("Reciprocal", [whole], f"{name}.logistic")], name)


def _float32(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float32)
