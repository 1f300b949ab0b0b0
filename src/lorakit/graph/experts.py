"""A mixture of experts as nodes: each token's few experts, each expert on its own tokens.

The tokens are put in the order of their experts and cut into one part for each, which may be empty:
a product of no rows costs next to nothing. What comes out is put back by tokens, weighted, and
summed. It is what Qwen 3 MoE computes in transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lorakit.architectures import Experts
from lorakit.graph.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """How the tokens of a step are shared out among the experts of the MLP `at`, by names."""

    at: str
    count: int  # experts

    @property
    def tokens(self) -> str:
        """int64 [pairs]: numbers of tokens, in the order of their experts."""
        return f"{self.at}.routing.tokens"

    @property
    def counts(self) -> str:
        """int64 [experts]: tokens of each."""
        return f"{self.at}.routing.counts"

    @property
    def places(self) -> str:
        """int64 [tokens, experts per token]: where among the pairs they are."""
        return f"{self.at}.routing.places"

    @property
    def weights(self) -> str:
        """[tokens, experts per token]."""
        return f"{self.at}.routing.weights"

    @property
    def new(self) -> str:
        """int64 [1]: new tokens of each row of the batch."""
        return f"{self.at}.routing.new"

    def reads(self, number: int) -> str:
        """What an expert's gate and up read, [1, some, hidden]."""
        return f"{self.at}.experts.in.{number}"

    def inner(self, number: int) -> str:
        """What its down reads, [1, some, width]."""
        return f"{self.at}.experts.{number}.gated"


def route(w: Writer, at: str, experts: Experts, x: str, logits: str) -> Routed:
    """From x [batch, new, hidden] and the router's logits, the last axis of which is of experts."""
    shared, name = Routed(at=at, count=experts.count), f"{at}.routing"
    flat = w.node("Reshape", [logits, w.shape(-1, experts.count)], f"{name}.logits")
    likely = w.node("Softmax", [flat], f"{name}.softmax", axis=-1)
    best, chosen = f"{name}.best", f"{name}.chosen"
    w.node("TopK", [likely, w.shape(experts.per_token)], best, outputs=[best, chosen], axis=-1)
    total = w.node("ReduceSum", [best, w.shape(1)], f"{name}.total")
    op, other = ("Div", [total]) if experts.normalised else ("Identity", [])
    w.node(op, [best, *other], shared.weights)
    ends = w.weight("no.yes", np.array([0, 1], np.int64))
    each = w.node("OneHot", [chosen, w.shape(experts.count), ends], f"{name}.each", axis=-1)
    mine = w.node("ReduceSum", [each, w.shape(1)], f"{name}.mine", keepdims=0)
    mask = w.node("Transpose", [mine], f"{name}.mask", perm=[1, 0])  # [experts, tokens]
    w.node("ReduceSum", [mask, w.shape(1)], shared.counts, keepdims=0)
    pairs = w.node("NonZero", [mask], f"{name}.pairs")  # [2, pairs], by experts
    second = w.node("Gather", [pairs, w.shape(1)], f"{name}.second", axis=0)
    w.node("Reshape", [second, w.shape(-1)], shared.tokens)
    every = w.node("Reshape", [mask, w.shape(-1)], f"{name}.every")
    after = w.node("CumSum", [every, w.shape(0)], f"{name}.after")
    before = w.node("Sub", [after, w.shape(1)], f"{name}.before")
    grid = w.node("Reshape", [before, w.node("Shape", [mask], f"{name}.shape")], f"{name}.grid")
    place = w.node("Transpose", [grid], f"{name}.place", perm=[1, 0])
    w.node("GatherElements", [place, chosen], shared.places, axis=1)
    w.node("Shape", [x], shared.new, start=1, end=2)
    return shared


def mixed(w: Writer, shared: Routed, x: str, hidden: int, expert: Callable[[int, str], str]) -> str:
    """The sum of what each token's experts make of it; expert: of its tokens [1, some, hidden]."""
    name = f"{shared.at}.experts"
    flat = w.node("Reshape", [x, w.shape(-1, hidden)], f"{name}.flat")
    ordered = w.node("Gather", [flat, shared.tokens], f"{name}.ordered", axis=0)
    whole = w.node("Unsqueeze", [ordered, w.shape(0)], f"{name}.whole")
    parts = [shared.reads(number) for number in range(shared.count)]
    w.node("Split", [whole, shared.counts], f"{name}.cut", outputs=parts, axis=1)
    results = [expert(number, part) for number, part in enumerate(parts)]
    joined = w.node("Concat", results, f"{name}.joined", axis=1)
    lines = w.node("Reshape", [joined, w.shape(-1, hidden)], f"{name}.lines")
    found = w.node("Gather", [lines, shared.places], f"{name}.found", axis=0)
    weights = w.node("Unsqueeze", [shared.weights, w.shape(2)], f"{name}.weights")
    shares = w.node("Mul", [found, weights], f"{name}.shares")
    total = w.node("ReduceSum", [shares, w.shape(1)], f"{name}.total", keepdims=0)
    return w.node("Reshape", [total, w.node("Shape", [x], f"{name}.shape")], f"{shared.at}.mixed")


def row_mask(w: Writer, shared: Routed, number: int, adapters: str) -> str:
    """[lora_rows, 1, some, 1], of an expert's tokens: 1 where one is the row's, else 0.

    adapters: an input whose first dimension is lora_rows; 1 is for all rows of the batch.
    """
    name = f"{shared.at}.rows"
    if not w.has(f"{name}.0"):
        row = w.node("Div", [shared.tokens, shared.new], f"{name}.of")
        count = w.node("Shape", [adapters], f"{name}.count", end=1)
        last = w.node("Sub", [count, w.shape(1)], f"{name}.last")
        held = w.node("Min", [row, last], f"{name}.held")
        ends = w.weight("no.yes.f32", np.array([0, 1], np.float32))
        mask = w.node("OneHot", [held, count, ends], f"{name}.mask", axis=0)
        wide = w.node("Unsqueeze", [mask, w.shape(1, 3)], f"{name}.masks")
        parts = [f"{name}.{each}" for each in range(shared.count)]
        w.node("Split", [wide, shared.counts], f"{name}.cut", outputs=parts, axis=2)
    return f"{name}.{number}"
