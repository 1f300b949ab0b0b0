"""Replaced rows as a low-rank delta, for formats that have no rows: exact, given the base's rows.

k new rows of a matrix are a change of rank k: one side picks the rows (one-hot), the other holds
the differences to the base. Unlike replaced rows, such a delta follows the adapter's scale.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter, Delta, Replacement, Site
from lorakit.base.folder import Base


def rows_as_deltas(adapter: Adapter, base: Base) -> tuple[Adapter, tuple[str, ...]]:
    """The adapter with its replaced rows as deltas relative to `base`, and a line for each.

    Rows under a delta of the same module, beside DoRA, or beyond the base stay as they are.
    """
    deltas, kept, notes = list(adapter.deltas), [], []
    taken = {delta.module for delta in deltas}
    for r in adapter.replacements:
        delta = None if adapter.magnitudes else _delta(r, base, taken)
        if delta is None:
            kept.append(r)
        else:
            deltas.append(delta)
            notes.append(
                f"{r.name}: {delta.rank} replaced rows became a delta of rank {delta.rank}, which "
                "follows the adapter's scale"
            )
    if not notes:
        return adapter, ()
    return replace(adapter, deltas=tuple(deltas), replacements=tuple(kept)), tuple(notes)


def _delta(replacement: Replacement, base: Base, taken: set[str]) -> Delta | None:
    module, decoder, rows = replacement.name.removesuffix(".weight"), base.decoder, replacement.rows
    shape = decoder.modules().get(module)
    if rows is None or not rows.size or replacement.site is not None or module in taken:
        return None
    if shape is None or replacement.name not in base.tensors:
        return None
    weight = base.tensors[replacement.name]
    if rows[0] < 0 or rows[-1] >= len(weight) or replacement.value.shape[1:] != weight.shape[1:]:
        return None
    differences = replacement.value.astype(np.float32) - weight[rows].astype(np.float32)
    picks = np.zeros((len(rows), len(weight)), np.float32)
    picks[np.arange(len(rows)), rows] = 1.0
    if shape.embedding:
        site = Site.BOTH if decoder.tied else Site.INPUT
        return Delta(module=module, a=picks, b=differences.T, scale=1.0, site=site)
    return Delta(module=module, a=differences, b=picks.T, scale=1.0)
