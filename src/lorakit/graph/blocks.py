"""A block of a decoder as nodes: attention and MLP, with their norms, projections and RoPE.

What a projection is called, and whether it is fused with others, a `Layout` says. What goes in and
comes out is the caller's: hidden states, lengths, the KV cache, and what is added to a linear's
output, such as LoRA. It computes what transformers computes; the operators are onnxruntime's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.architectures import Decoder, Layer, Layout, Linear, ModuleShape, Part, Rope
from lorakit.base.folder import Base
from lorakit.graph.experts import mixed, route
from lorakit.graph.quantize import Form, float32
from lorakit.graph.rope import inverse_frequencies, tables
from lorakit.graph.writer import CONTRIB, Writer

Adapt = Callable[[str, str, str], str]  # (module, x, y) -> y with what is added to it
Window = Literal["inclusive", "exclusive"]
KINDS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}  # of hidden states


def unadapted(module: str, x: str, y: str) -> str:
    """A linear's output as it is."""
    return y


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Names of a layer's keys and values [batch, kv_heads, tokens, head_dim]: before, after."""

    past: tuple[str, str]
    present: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Names of what every block reads beside its hidden states.

    lengths: int32 [batch], tokens in the row after this step, less one. total: int32 [], the
    longest row's tokens after this step. cache: declares a layer's keys and values when its
    attention is reached.
    """

    lengths: str
    total: str
    cache: Callable[[int], Cache]


@dataclass(slots=True, kw_only=True)
class Blocks:
    """Writes the blocks of a base. Every method that takes the name of a tensor returns one.

    form: how linears store their weights. router: the same of an experts' router. adapt: what is
    added to their outputs. context: positions in the RoPE tables. dtype: of hidden states, norms,
    biases and RoPE tables. exact: SiLU rounds as float32 does, which takes more operators. window:
    whether the attention operator counts the token itself in a sliding window, which differs
    between versions of onnxruntime. computed: RoPE tables are made when a session opens, and take
    no room in the file.
    """

    base: Base
    writer: Writer
    form: Form
    context: int
    router: Form = float32
    adapt: Adapt = unadapted
    dtype: type[np.floating] = np.float32
    exact: bool = False
    window: Window = "inclusive"
    computed: bool = False
    _decoder: Decoder = field(init=False)
    _layout: Layout = field(init=False)
    _shapes: Mapping[str, ModuleShape] = field(init=False)
    _ropes: dict[Rope, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._decoder = self.base.decoder
        self._layout = self._decoder.architecture.layout
        self._shapes = self._decoder.modules()

    def block(self, index: int, x: str, step: Step) -> str:
        """Attention and MLP, each with its norms, each added to the residual."""
        at, norms = self._at(index), [self._at(index, name) for name in self._layout.norms]
        sandwich = self._decoder.architecture.sandwich_norms
        before, after = (norms[0::2], norms[1::2]) if sandwich else (norms, [])
        y = self.attention(index, self.norm(before[0], x), step)
        if after:
            y = self.norm(after[0], y)
        x = self.writer.node("Add", [x, y], f"{at}.attended")
        y = self.mlp(index, self.norm(before[1], x))
        if after:
            y = self.norm(after[1], y)
        return self.writer.node("Add", [x, y], f"{at}.out")

    def attention(self, index: int, x: str, step: Step) -> str:
        """Grouped-query attention over the KV cache, RoPE inside the operator."""
        w, d, layer = self.writer, self._decoder, self._decoder.layers[index]
        at = self._at(index, self._linear("output").name).rpartition(".")[0]
        query = self.project(index, "query", x)
        key = self.project(index, "key", x)
        value = self.project(index, "value", x)
        if d.architecture.qk_norm:
            query = self.head_norm(f"{at}.q_norm", query, d.heads)
            key = self.head_norm(f"{at}.k_norm", key, d.kv_heads)
        cache = step.cache(index)
        attended = w.node(
            "GroupQueryAttention",
            [query, key, value, *cache.past, step.lengths, step.total, *self.rope(layer)],
            f"{at}.attention",
            domain=CONTRIB,
            outputs=[f"{at}.attention", *cache.present],
            num_heads=d.heads,
            kv_num_heads=d.kv_heads,
            do_rotary=1,
            scale=d.attention_scale,
            local_window_size=self._window_size(layer),
        )
        return self.project(index, "output", attended)

    def mlp(self, index: int, x: str) -> str:
        """down(act(gate x) * up x), or down(act(up x)) for a family without a gate."""
        if self._decoder.layers[index].sparse:
            return self.mixture(index, x)
        at = self._at(index, self._linear("down").name).rpartition(".")[0]
        if self._layout.linear("gate") is None:
            inner = self.activation(f"{at}.act", self.project(index, "up", x))
        else:
            gate = self.activation(f"{at}.act", self.project(index, "gate", x))
            up = self.project(index, "up", x)
            inner = self.writer.node("Mul", [gate, up], f"{at}.gated")
        return self.project(index, "down", inner)

    def mixture(self, index: int, x: str) -> str:
        """A token's experts, each like an MLP, weighted by the router, which is exact: in 8 bits
        it would choose others. What adapters add to experts is in graph.gains."""
        w, d, at = self.writer, self._decoder, self._at(index, "mlp")
        assert d.experts is not None
        router = f"{at}.gate"
        logits = self.adapt(router, x, self.plain_linear(router, x, self.router))
        shared = route(w, at, d.experts, x, logits)

        def expert(number: int, tokens: str) -> str:
            gate, up = (
                self.expert(f"{at}.experts.{n}_proj", number, tokens) for n in ("gate", "up")
            )
            act = self.activation(f"{at}.experts.{number}.act", gate)
            inner = w.node("Mul", [act, up], shared.inner(number))
            return self.expert(f"{at}.experts.down_proj", number, inner)

        return mixed(w, shared, x, d.hidden, expert)

    def expert(self, module: str, number: int, x: str) -> str:
        """One projection of one expert."""
        return self.form(self.writer, f"{module}.{number}", x, self.base.experts(module)[number])

    def project(self, index: int, part: Part, x: str) -> str:
        """One part of a block's projections; a fused linear is computed once and split."""
        linear = self._linear(part)
        module = self._at(index, linear.name)
        if len(linear.parts) == 1:
            return self.linear(module, x)
        w, names = self.writer, [f"{module}.{name}" for name in linear.parts]
        if not w.has(names[0]):
            y, rows = self.linear(module, x), w.shape(*self._shapes[module].parts)
            w.node("Split", [y, rows], f"{module}.split", outputs=names, axis=-1)
        return names[linear.parts.index(part)]

    def linear(self, module: str, x: str) -> str:
        """A linear of a block, with what is added to its output."""
        return self.adapt(module, x, self.plain_linear(module, x, self.form))

    def plain_linear(self, module: str, x: str, form: Form) -> str:
        y = form(self.writer, module, x, self.base.weight(module))
        if self._shapes[module].bias:
            bias = f"{module}.bias"
            stored = self.writer.weight(bias, self._constant(self.base.tensor(bias)))
            y = self.writer.node("Add", [y, stored], f"{module}.biased")
        return y

    def norm(self, module: str, x: str) -> str:
        scale = np.asarray(self.base.tensor(f"{module}.weight"), np.float32)
        scale = scale + np.float32(self._decoder.architecture.norm_offset)
        return self.writer.node(
            "SimplifiedLayerNormalization",
            [x, self.writer.weight(f"{module}.weight", self._constant(scale))],
            f"{module}.normed",
            axis=-1,
            epsilon=self._decoder.eps,
        )

    def head_norm(self, module: str, x: str, heads: int) -> str:
        """RMS norm of each head's vector by itself."""
        w, dim = self.writer, self._decoder.head_dim
        split = w.node("Reshape", [x, w.shape(0, -1, heads, dim)], f"{module}.heads")
        normed = self.norm(module, split)
        return w.node("Reshape", [normed, w.shape(0, -1, heads * dim)], f"{module}.joined")

    def rope(self, layer: Layer) -> tuple[str, str]:
        """cos and sin tables, shared by all layers of the same kind."""
        assert layer.rope is not None  # see `unsupported`
        if layer.rope not in self._ropes:
            name = f"rope.{len(self._ropes)}"
            if self.computed:
                self._ropes[layer.rope] = self._computed(layer.rope, name)
                return self._ropes[layer.rope]
            cos, sin = tables(layer.rope, self._decoder.head_dim, self.context)
            self._ropes[layer.rope] = (
                self.writer.weight(f"{name}.cos", self._constant(cos)),
                self.writer.weight(f"{name}.sin", self._constant(sin)),
            )
        return self._ropes[layer.rope]

    def _computed(self, rope: Rope, name: str) -> tuple[str, str]:
        """Tables that onnxruntime makes once, from their frequencies, when a session opens."""
        w, positions = self.writer, np.arange(self.context, dtype=np.float32)
        frequencies = inverse_frequencies(rope, self._decoder.head_dim)
        rows = w.weight("rope.positions", positions[:, None])
        columns = w.weight(f"{name}.frequencies", frequencies[None])
        angles = w.node("Mul", [rows, columns], f"{name}.angles")
        kind = KINDS[self.dtype]
        cos, sin = (w.node(op, [angles], f"{name}.{op.lower()}.f32") for op in ("Cos", "Sin"))
        if rope.attention != 1.0:
            gain = w.weight(f"{name}.gain", np.array(rope.attention, np.float32))
            cos, sin = (w.node("Mul", [each, gain], f"{each}.gained") for each in (cos, sin))
        return (
            w.node("Cast", [cos], f"{name}.cos", to=kind),
            w.node("Cast", [sin], f"{name}.sin", to=kind),
        )

    def activation(self, name: str, x: str) -> str:
        if self._decoder.activation == "silu":
            return self.silu(name, x)
        op = "FastGelu" if self._decoder.activation == "gelu_tanh" else "Gelu"
        return self.writer.node(op, [x], name, domain=CONTRIB)

    def silu(self, name: str, x: str) -> str:
        """x / (1 + exp(-x)). Where it is to be exact through Exp, which rounds half as much as the
        logistic approximation of the fused operator."""
        w = self.writer
        if not self.exact:
            return w.node("QuickGelu", [x], name, domain=CONTRIB, alpha=1.0)
        one = w.weight("one", np.array(1.0, self.dtype))
        exp = w.node("Exp", [w.node("Neg", [x], f"{name}.neg")], f"{name}.exp")
        whole = w.node("Add", [one, exp], f"{name}.whole")
        return w.node("Mul", [x, w.node("Reciprocal", [whole], f"{name}.logistic")], name)

    def _window_size(self, layer: Layer) -> int:
        """A layer's window, which counts the token itself, in the operator's words; -1 is none."""
        if layer.window is None:
            return -1
        return layer.window if self.window == "inclusive" else layer.window - 1

    def _at(self, index: int, name: str = "") -> str:
        return ".".join(filter(None, (self._layout.blocks, str(index), name)))

    def _linear(self, part: Part) -> Linear:
        linear = self._layout.linear(part)
        assert linear is not None  # only a gate may be missing: see `mlp`
        return linear

    def _constant(self, array: Array) -> Array:
        return np.ascontiguousarray(array, dtype=self.dtype)


def unsupported(decoder: Decoder) -> list[str]:
    """What a base has that blocks do not compute, one line each."""
    layout = decoder.architecture.layout
    ropes = [layer.rope for layer in decoder.layers]
    found = {
        "learned positions": layout.positions is not None,
        "LayerNorm with a bias": layout.norm_bias,
        "RoPE on a part of each head": any(rope and rope.partial != 1.0 for rope in ropes),
        "longrope": any(rope and rope.kind == "longrope" for rope in ropes),
    }
    return [name for name, there in found.items() if there]
