"""What chooses adapters in an exported file: LoRA tensors, or a number for each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.adapter import Adapter, Array
from lorakit.exporting.running import ExportedModel
from lorakit.graph.composed import SELECTOR

END_A, END_B = ".lora_A", ".lora_B"
Scaled = tuple[Adapter, float]


def number_feeds(number: int) -> dict[str, Array]:
    """The choice of one row among the adapters of a composed file; 0 is the base."""
    return {SELECTOR: np.array([number], np.int64)}


def lora_feeds(model: ExportedModel, adapters: Sequence[Scaled]) -> dict[str, Array]:
    """All LoRA inputs of a file for adapters at their scales, side by side along the rank.

    Scales are folded into B in float32. None gives tensors of rank 0, which are the base.
    """
    deltas = [
        {delta.module: (delta, delta.scale * scale) for delta in adapter.deltas}
        for adapter, scale in adapters
    ]
    fed: dict[str, Array] = {}
    for name, (dtype, shape) in model.inputs.items():
        if not name.endswith((END_A, END_B)):
            continue
        module, _, half = name.rpartition(".")
        found = [each[module] for each in deltas if module in each]
        if f".{half}" == END_A:
            parts = [np.zeros((shape[1], 0)), *(delta.a.T for delta, _ in found)]
            fed[name] = np.concatenate(parts, axis=1, dtype=np.float32)[None].astype(dtype)
        else:
            parts = [np.zeros((0, shape[2]))]
            parts += [delta.b.T.astype(np.float32) * np.float32(scale) for delta, scale in found]
            fed[name] = np.concatenate(parts, axis=0, dtype=np.float32)[None].astype(dtype)
    return fed
