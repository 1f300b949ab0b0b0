"""The scale at which adapters are in a merged model's weights.

A merge to bfloat16 moves the logits of a large model by more than a wrong scale does, so logits
alone cannot decide. The weights can: rounding is known there. Each adapted weight plus its change,
rounded as the other folder stores it, is compared with what is stored, and the same with a scale a
percent up or down. The logits must still agree within rounding; this only settles the scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Site, in_order
from lorakit.base.folder import Base
from lorakit.verify.verdict import F64, Evidence, evidence

BLOCK = 1024  # rows at a time
Scaled = tuple[Adapter, float]


def weight_evidence(
    base: Base, merged: Base, adapters: Mapping[str, Scaled], steps: Mapping[str, tuple[str, float]]
) -> tuple[Evidence, ...]:
    """What the verdict needs to know of the weights, in blocks of rows; empty where it cannot say.

    adapters: those of side one with their scales, by name. steps: by what it is, the adapter whose
    scale is changed, and the factor. It says nothing of adapters that hold more than low-rank
    changes of linear layers (DoRA, biases, embeddings, experts), nor of GGUF files and exports.
    """
    unread = any(each.is_gguf or each.exported is not None for each in (base, merged))
    if unread or not all(_is_plain(a) for a, _ in adapters.values()):
        return ()
    names = in_order({delta.module for adapter, _ in adapters.values() for delta in adapter.deltas})
    found: list[Evidence] = []
    for module in names:
        weight, stored = base.weight(module), merged.weight(module)
        if weight.shape != stored.shape:
            return ()
        of_module = {
            name: (delta, scale)
            for name, (adapter, scale) in adapters.items()
            for delta in adapter.deltas
            if delta.module == module
        }
        found += _blocks(module, weight, stored, of_module, steps)
    return tuple(found)


def _blocks(
    module: str,
    weight: Array,
    stored: Array,
    deltas: Mapping[str, tuple[Delta, float]],
    steps: Mapping[str, tuple[str, float]],
) -> Iterator[Evidence]:
    for begin in range(0, len(weight), BLOCK):
        rows = slice(begin, begin + BLOCK)
        plain = weight[rows].astype(np.float64)
        parts = {name: _change(delta, scale, rows) for name, (delta, scale) in deltas.items()}

        whole = plain + sum(parts.values())
        one, other = _rounded(whole, stored), stored[rows].astype(np.float64)
        changed = {
            step: _rounded(whole + (factor - 1) * parts[name], stored) if name in parts else one
            for step, (name, factor) in steps.items()
        }
        yield evidence(module, one, other, changed)


def _rounded(values: F64, stored: Array) -> F64:
    """As the merged model stores it."""
    found: F64 = values.astype(stored.dtype).astype(np.float64)
    return found


def _change(delta: Delta, scale: float, rows: slice) -> F64:
    found: F64 = scale * delta.scale * delta.b[rows].astype(np.float64) @ delta.a.astype(np.float64)
    return found


def _is_plain(adapter: Adapter) -> bool:
    linear: Sequence[bool] = [
        delta.site is Site.LINEAR and delta.a.ndim == 2 and delta.bias is None
        for delta in adapter.deltas
    ]
    return all(linear) and not adapter.magnitudes and not adapter.replacements
