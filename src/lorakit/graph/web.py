"""The graph that transformers.js runs: from token ids to logits, over a KV cache that grows.

Inputs:
    input_ids            int64 [batch_size, sequence_length]
    attention_mask       int64 [batch_size, total_sequence_length]  rows are padded on the right
    num_logits_to_keep   int64 []  of the last positions; 0 is all
    past_key_values.N.key, .value   [batch_size, kv_heads, past_sequence_length, head_dim]
Outputs:
    logits               float32 [batch_size, kept, vocabulary]
    present.N.key, .value           [batch_size, kv_heads, total_sequence_length, head_dim]

Beside them is what `adapt` declares: LoRA tensors (see graph.lora), or a number (graph.composed).
The keys and values, and LoRA tensors, have the dtype of the hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import TensorProto

from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.graph.blocks import KINDS, Adapt, Blocks, Cache, Step, unadapted
from lorakit.graph.decoder import wide_modules
from lorakit.graph.lora import lora, targets
from lorakit.graph.quantize import Form, Sight, form_of, unseen
from lorakit.graph.vocabulary import FloatTable, Int8Table, Table
from lorakit.graph.web_linear import blocks4, float16
from lorakit.graph.weights import Store
from lorakit.graph.writer import Shape, Writer

WebForm = Literal["none", "fp16", "q8", "q4", "q4f16"]
HALF: tuple[WebForm, ...] = ("fp16", "q4f16")  # hidden states in float16
FLOATS: tuple[WebForm, ...] = ("none", "fp16")  # the vocabulary's table is not quantised
Adapting = Callable[[Writer, type[np.floating]], Adapt]  # of hidden states of a dtype


def without_adapters(writer: Writer, dtype: type[np.floating]) -> Adapt:
    """The base, or a base with adapters in its weights."""
    return unadapted


def with_inputs(decoder: Decoder) -> Adapting:
    """LoRA tensors are inputs, for every linear of every layer."""
    inputs = targets(decoder)

    def adapting(writer: Writer, dtype: type[np.floating]) -> Adapt:
        return lambda module, x, y: lora(writer, inputs[module], x, y, KINDS[dtype])

    return adapting


def hidden_dtype(form: WebForm) -> type[np.floating]:
    return np.float16 if form in HALF else np.float32


def build_web(
    base: Base,
    form: WebForm,
    store: Store,
    *,
    context: int,
    adapting: Adapting = without_adapters,
    sight: Sight = unseen,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The serialized model; its weights go into `store`, one tensor at a time.

    context: positions in the RoPE tables. sight: of what linears read, by its name in the graph,
    asked block by block; see graph.even. Windows count the token itself, as they do in onnxruntime
    from 1.24 on. Raises BaseModelError for weights that float16 does not hold, where the form
    wants that.
    """
    return _Front(base, form, Writer(store), context, adapting, sight).build(metadata)


@dataclass(slots=True)
class _Front:
    base: Base
    form: WebForm
    writer: Writer
    context: int
    adapting: Adapting
    sight: Sight

    def build(self, metadata: Mapping[str, str] | None) -> bytes:
        w, d = self.writer, self.base.decoder
        ids = w.input("input_ids", ["batch_size", "sequence_length"], TensorProto.INT64)
        step, blocks = self.step(), self.blocks()
        x = "embedded"
        for index in range(len(d.layers)):
            x = blocks.block(index, x, step)
        final = blocks.norm(d.architecture.layout.final_norm, self.kept(x))
        table, head = self.tables(final)
        with w.ahead():  # built last, as the head's table takes what was seen of its input
            scale = math.sqrt(d.hidden) if d.architecture.scaled_embedding else 1.0
            table.look_up(w, ids, "embedded", float(np.float32(scale)), self.dtype)
        self.logits(head.project(w, final, "head", self.dtype))
        return w.finish(metadata)

    @property
    def dtype(self) -> type[np.floating]:
        return hidden_dtype(self.form)

    def blocks(self) -> Blocks:
        return Blocks(
            base=self.base,
            writer=self.writer,
            form=self.linear(),
            context=self.context,
            adapt=self.adapting(self.writer, self.dtype),
            dtype=self.dtype,
            exact=self.form == "none",
            computed=True,
        )

    def linear(self) -> Form:
        if self.form == "none":
            return form_of("float32")
        if self.form == "fp16":
            return float16
        if self.form == "q8":
            return form_of("rowwise8", self.sight)
        return blocks4(self.dtype, self.sight, wide_modules(self.base.decoder))

    def step(self) -> Step:
        """Lengths of rows from the mask, whose rows are padded on the right."""
        w, shape = self.writer, ["batch_size", "total_sequence_length"]
        mask = w.input("attention_mask", shape, TensorProto.INT64)
        one = w.weight("one.int64", np.array(1, np.int64))
        sums = w.node("ReduceSum", [mask, w.shape(1)], "mask.sums", keepdims=0)
        last = w.node("Sub", [sums, one], "mask.last")
        total = w.node("Gather", [w.node("Shape", [mask], "mask.shape"), one], "mask.total")
        return Step(
            lengths=w.node("Cast", [last], "lengths", to=TensorProto.INT32),
            total=w.node("Cast", [total], "total", to=TensorProto.INT32),
            cache=self.cache,
        )

    def cache(self, index: int) -> Cache:
        w, d, kind = self.writer, self.base.decoder, KINDS[self.dtype]
        before: Shape = ["batch_size", d.kv_heads, "past_sequence_length", d.head_dim]
        after: Shape = ["batch_size", d.kv_heads, "total_sequence_length", d.head_dim]
        past, present = f"past_key_values.{index}", f"present.{index}"
        return Cache(
            past=(w.input(f"{past}.key", before, kind), w.input(f"{past}.value", before, kind)),
            present=(
                w.output(f"{present}.key", after, kind),
                w.output(f"{present}.value", after, kind),
            ),
        )

    def kept(self, x: str) -> str:
        """The last positions that logits are wanted of: a slice from -0 on is all."""
        w = self.writer
        keep = w.input("num_logits_to_keep", [], TensorProto.INT64)
        begin = w.node("Reshape", [w.node("Neg", [keep], "keep.neg"), w.shape(1)], "keep.begin")
        return w.node("Slice", [x, begin, w.shape(1 << 62), w.shape(1)], "kept")

    def tables(self, final: str) -> tuple[Table, Table]:
        """Of the lookup and of the head, which are one where they are tied."""
        d = self.base.decoder
        embedding, head = (
            self.base.tensor(f"{d.embedding}.weight"),
            self.base.tensor("lm_head.weight"),
        )
        if self.form in FLOATS:
            table: Table = FloatTable("embedding", embedding)
            return table, table if d.tied else FloatTable("head", head)
        seen = self.sight(final)
        shown = Int8Table("embedding" if d.tied else "head", head, seen.divisors if seen else None)
        return shown if d.tied else Int8Table("embedding", embedding, None), shown

    def logits(self, y: str) -> None:
        """With the soft cap of families that have one, as float32."""
        w, d = self.writer, self.base.decoder
        y = w.node("Cast", [y], "head.f32", to=TensorProto.FLOAT)
        if d.logit_softcap:
            cap = w.weight("softcap", np.array(d.logit_softcap, np.float32))
            y = w.node("Tanh", [w.node("Div", [y, cap], "head.over_cap")], "head.tanh")
            y = w.node("Mul", [y, cap], "head.capped")
        w.node("Identity", [y], w.output("logits", ["batch_size", "kept", d.vocabulary]))
