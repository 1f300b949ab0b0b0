"""Which tensors of a family without a row llama.cpp applies deltas to: tried once, kind by kind.

Some of its graphs multiply by a weight without looking for adapters. It then loads a delta of that
weight and computes without it, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Site
from lorakit.architectures import Decoder, ModuleShape
from lorakit.errors import CapabilityError

SIZE = 0.1  # of the values of a trial's A and B; ten times that of usual weights


def kind_of(module: str) -> str:
    """What layers have in common: "attn_q" of "blk.3.attn_q"."""
    return module.rpartition(".")[2]


def require_acting(
    modules: Iterable[str], decoder: Decoder, known: set[str], logits: Callable[[Adapter], Array]
) -> None:
    """Raise CapabilityError naming the kinds of these modules whose deltas change no logit.

    known: kinds that were seen to act, to which others are added. logits: of some tokens with an
    adapter, which may be empty.
    """
    wanted = sorted({kind_of(module) for module in modules} - known)
    if not wanted:
        return
    plain = logits(Adapter())
    ignored = []
    for kind in wanted:
        if np.array_equal(logits(_trial(kind, decoder)), plain):
            ignored.append(kind)
        else:
            known.add(kind)
    if ignored:
        raise CapabilityError(
            f"llama.cpp computes {decoder.architecture.gguf} without the deltas of some tensors of "
            "this adapter, and would say nothing",
            items=[f"{kind}: a delta of it changes no logit" for kind in ignored],
            hint="merge the adapter into the folder that the base was converted from",
        )


def _trial(kind: str, decoder: Decoder) -> Adapter:
    """Deltas of every module of a kind, at rank 1; the same ones each time."""
    random = np.random.default_rng(0)
    return Adapter(
        deltas=tuple(
            _delta(module, shape, random)
            for module, shape in decoder.modules().items()
            if kind_of(module) == kind
        )
    )


def _delta(module: str, shape: ModuleShape, random: np.random.Generator) -> Delta:
    axes = () if shape.experts is None else (shape.experts,)
    sizes = (*axes, 1, shape.in_features), (*axes, shape.out_features, 1)
    a, b = (random.normal(0, SIZE, size).astype(np.float32) for size in sizes)
    site = Site.INPUT if shape.embedding else Site.LINEAR
    return Delta(module=module, a=a, b=b, scale=1.0, site=site)
