"""PiSSA and its kin: an adapter that belongs to a changed base, made one for the original base.

They take a part out of the base at the start, ``W_res = W - s B0 A0``, and train
``W_res + s B A``. With the initial adapter (A0, B0) at hand the change of W is exact, as in peft
0.21 (LoraModel.subtract_mutated_init): ``s (B A - B0 A0)``, of rank 2 r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Delta, in_order
from lorakit.errors import FormatError, UnsupportedError

LOW_RANK = ("pissa", "olora", "corda", "lora_ga")  # what they take out is low-rank: B0 A0


def changes_base(raw: Mapping[str, Any]) -> str:
    """The initialisation that `init_lora_weights` names, if B0 A0 is all that it takes out of the
    base; else nothing. LoftQ is none: it quantises what is left."""
    init = str(raw.get("init_lora_weights", True)).lower()
    return next((kind for kind in LOW_RANK if init.startswith(kind)), "")


def find_initial(path: Path, raw: Mapping[str, Any], given: Path | None) -> Path | None:
    """The folder of the initial adapter: as given, or where it lies within the adapter's own as
    `pissa_init`, `olora_init`, `corda_init` or `lora_ga_init`.

    Raises UnsupportedError where one is given for an adapter that needs none.
    """
    kind = changes_base(raw)
    if given is not None and not kind:
        raise UnsupportedError(
            f"{path} was not initialised in a way that an initial adapter could undo",
            items=[f"init_lora_weights = {raw.get('init_lora_weights', True)!s:.80}"],
            hint="read it without `init`",
        )
    if given is not None or not kind:
        return given
    inside = path / f"{kind}_init"
    return inside if inside.is_dir() else None


def since_initial(trained: Adapter, initial: Adapter, path: Path) -> Adapter:
    """What training changed: each delta minus its initial value, side by side, exactly.

    Raises FormatError where the two do not belong together, UnsupportedError for DoRA.
    """
    if trained.magnitudes or initial.magnitudes:
        raise UnsupportedError(f"{path}: DoRA over a changed base cannot be converted")
    start = {d.key: d for d in initial.deltas}
    faults = [
        f"{d.module}: not the same in both, or another shape or scale"
        for d in trained.deltas
        if (other := start.get(d.key)) is None or not _belong(d, other)
    ]
    alone = start.keys() - {d.key for d in trained.deltas}
    faults += [f"{each}: only in the initial adapter" for each in in_order(m for m, _ in alone)]
    if faults:
        raise FormatError(
            f"{path} and its initial adapter do not belong together", items=faults[:20]
        )
    return replace(trained, deltas=tuple(_minus(d, start[d.key]) for d in trained.deltas))


def _belong(a: Delta, b: Delta) -> bool:
    return (
        a.a.shape == b.a.shape and a.b.shape == b.b.shape and a.scale == b.scale and b.bias is None
    )


def _minus(trained: Delta, initial: Delta) -> Delta:
    return replace(
        trained,
        a=np.concatenate([trained.a, initial.a], axis=-2),
        b=np.concatenate([trained.b, -initial.b], axis=-1),
        alpha=None,
    )
