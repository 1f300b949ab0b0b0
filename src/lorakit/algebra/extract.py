"""An adapter out of a full fine-tune: the truncated SVD of what changed, module by module.

One tensor at a time, in float32. A changed matrix becomes a delta; a changed norm or bias has no
low rank and becomes a Replacement, whole and exact. An embedding that is tied in both models is
changed at both its uses; where either has a head of its own, lookup and head are two deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Precondition, Replacement, Site
from lorakit.algebra.lowrank import Cut, cut_dense, dense_norm, dense_residual
from lorakit.algebra.parts import stacked
from lorakit.algebra.report import ModuleResidual, ResidualReport
from lorakit.base import Base
from lorakit.errors import AdapterError, MismatchError, ParameterError

EMBEDDING = "model.embed_tokens"


def extract(
    base: Base,
    tuned: Base,
    rank: int | None = None,
    energy: float | None = None,
    modules: Sequence[str] | None = None,
) -> tuple[Adapter, ResidualReport]:
    """The adapter that takes `base` to `tuned`, up to the residual in the report.

    rank, energy: as in `resize`. modules: module names or their last parts ("q_proj"; a norm such
    as "model.norm" too); all others are left alone and, where they changed, named in
    `report.skipped`. Raises MismatchError (the models differ in more than weights), AdapterError
    (values that are not finite) and ParameterError.
    """
    cut = Cut(rank=rank, energy=energy)
    _require_alike(base, tuned)
    names = _parameters(base, tuned)
    wanted = _wanted(names, modules)
    deltas: list[Delta] = []
    replacements: list[Replacement] = []
    rows: list[ModuleResidual] = []
    skipped: list[str] = []
    for name in names:
        before, after = base.tensor(name), tuned.tensor(name)
        if before is after or _equal(before, after):
            continue
        if not np.isfinite(after.astype(np.float32)).all():
            raise AdapterError(f"{name}: NaN or infinity in the tuned model")
        if name not in wanted:
            skipped.append(name)
        elif before.ndim == 1:
            replacements.append(Replacement(name=name, value=np.array(after)))
        else:
            tied = base.decoder.tied and tuned.decoder.tied
            delta, row = _delta(name, before, after, cut, tied)
            rows.append(row)
            deltas += [delta] if delta is not None else []
    adapter = Adapter(
        deltas=tuple(deltas),
        replacements=tuple(replacements),
        precondition=Precondition(name=base.name, fingerprint=base.fingerprint),
    )
    return adapter, ResidualReport(method="svd", modules=tuple(rows), skipped=tuple(skipped))


def _parameters(base: Base, tuned: Base) -> list[str]:
    """All parameters; the head has one of its own where either model has."""
    return list(base.decoder.parameters() | tuned.decoder.parameters())


def _require_alike(base: Base, tuned: Base) -> None:
    """Same architecture, sizes and settings; only the tying may differ."""
    one, other = (replace(model.decoder, tied=False) for model in (base, tuned))
    if one == other:
        return
    shapes, found = one.parameters(), other.parameters()
    faults = [
        f"{name}: {shapes.get(name, 'missing')} in the base, {found.get(name, 'missing')} tuned"
        for name in {**shapes, **found}
        if shapes.get(name) != found.get(name)
    ]
    raise MismatchError(
        "the tuned model is not a fine-tune of this base: their configs differ",
        items=faults[:20] or ["the same shapes, but other settings in config.json"],
        hint="give the base that the tuning started from",
    )


def _wanted(names: Sequence[str], modules: Sequence[str] | None) -> set[str]:
    if modules is None:
        return set(names)
    found = {asked: {n for n in names if _within(n, asked)} for asked in modules}
    unknown = [asked for asked, matched in found.items() if not matched]
    if unknown:
        raise ParameterError(
            "no module of the base has these names",
            items=unknown,
            hint='module names or their last parts, such as "q_proj"',
        )
    return set().union(*found.values())


def _within(name: str, asked: str) -> bool:
    module = name.rpartition(".")[0]
    return module == asked or module.endswith(f".{asked}")


def _equal(before: Array, after: Array) -> bool:
    return bool(np.array_equal(before, after))


def _delta(
    name: str, before: Array, after: Array, cut: Cut, tied: bool
) -> tuple[Delta | None, ModuleResidual]:
    module = name.removesuffix(".weight")
    change = after.astype(np.float32) - before.astype(np.float32)
    site = Site.LINEAR
    if module == EMBEDDING:
        change, site = change.T, Site.BOTH if tied else Site.INPUT
    like = Delta(
        module=module,
        site=site,
        a=np.zeros((1, change.shape[1]), np.float32),
        b=np.zeros((change.shape[0], 1), np.float32),
        scale=1.0,
    )
    stored = stacked([cut_dense(change, cut)], like, None)
    return stored, ModuleResidual(
        module=module,
        site=site.value,
        rank_before=min(change.shape),
        rank_after=0 if stored is None else stored.rank,
        norm=dense_norm(change),
        residual=1.0 if stored is None else dense_residual(change, stored.b, stored.a),
    )
