"""An adapter out of a full fine-tune: the truncated SVD of what changed, module by module.

One tensor at a time, in float32. A changed matrix becomes a delta; a changed norm or bias has no
low rank and becomes a Replacement, whole and exact. What differs by the rounding of the coarser of
both dtypes alone was not changed. An embedding that is tied in both models is changed at both its
uses; where either has a head of its own, lookup and head are two deltas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Precondition, Replacement, Site
from lorakit.algebra.lowrank import Cut, cut_dense, dense_error, dense_norm
from lorakit.algebra.parts import stacked
from lorakit.algebra.report import ModuleResidual, ResidualReport
from lorakit.algebra.rounding import mantissa, rounding, trained
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.errors import AdapterError, MismatchError, ParameterError
from lorakit.files.mapped import release


def extract(
    base: Base,
    tuned: Base,
    rank: int | None = None,
    energy: float | None = None,
    modules: Sequence[str] | None = None,
    *,
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Adapter, ResidualReport]:
    """The adapter that takes `base` to `tuned`, up to the residual in the report.

    rank, energy: as in `resize`. modules: module names or their last parts ("q_proj"; a norm such
    as "model.norm" too); all others are left alone and, where they changed, named in
    `report.skipped`. exact: a full SVD of each matrix, where a randomized one is within 1% of it.
    progress: told how many tensors are done, and of how many.
    Raises MismatchError (the models differ in more than weights), AdapterError
    (values that are not finite), ParameterError, and CapabilityError for a GGUF file.
    """
    for model in (base, tuned):
        model.require_weights()
    cut = Cut(rank=rank, energy=energy, exact=exact)
    _require_alike(base, tuned)
    weights = _weights(base, tuned)
    names = [*weights, *_vectors(base)]
    wanted = _wanted(names, modules)
    found = _Found()
    for number, name in enumerate(names):
        if progress is not None:
            progress(number, len(names))
        pairs = _pairs(base, tuned, name, weights.get(name))
        if not found.has_changed(pairs):
            pass
        elif name not in wanted:
            found.skipped.append(name)
        elif name in weights:
            found.matrix(weights[name], pairs, cut)
        else:
            found.vector(name, pairs[0][1])
        for pair in pairs:
            for array in pair:
                release(array)
    adapter = Adapter(
        deltas=tuple(found.deltas),
        replacements=tuple(found.replacements),
        precondition=Precondition(name=base.name, fingerprint=base.fingerprint),
    )
    report = ResidualReport(
        method="svd", modules=tuple(found.rows), skipped=tuple(found.skipped), notes=found.notes()
    )
    return adapter, report


@dataclass(frozen=True, slots=True)
class _Weight:
    module: str
    experts: bool
    site: Site


def _weights(base: Base, tuned: Base) -> dict[str, _Weight]:
    """Modules by the name of their weight; the head has one of its own where either model has."""
    tied = base.decoder.tied and tuned.decoder.tied
    table = {}
    for module, shape in base.decoder.modules().items():
        site = Site.INPUT if shape.embedding else Site.LINEAR
        if module == base.decoder.embedding and tied:
            site = Site.BOTH
        if module != HEAD or not tied:
            table[f"{module}.weight"] = _Weight(module, shape.experts is not None, site)
    return table


def _vectors(base: Base) -> list[str]:
    """Parameters that are no module's weight: norms and biases."""
    return [name for name, shape in base.decoder.parameters().items() if len(shape) == 1]


def _pairs(base: Base, tuned: Base, name: str, weight: _Weight | None) -> list[tuple[Array, Array]]:
    """A parameter before and after; of a module its weight [out, in], one for each expert."""
    if weight is None:
        return [(base.tensor(name), tuned.tensor(name))]
    if weight.experts:
        module = weight.module
        return list(zip(base.experts(module), tuned.experts(module), strict=True))
    return [(base.weight(weight.module), tuned.weight(weight.module))]


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


@dataclass(slots=True)
class _Found:
    """What the tensors give, one after the other."""

    deltas: list[Delta] = field(default_factory=list)
    replacements: list[Replacement] = field(default_factory=list)
    rows: list[ModuleResidual] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    rounded: int = 0  # tensors that differ by rounding alone
    coarse: set[str] = field(default_factory=set)  # the dtypes that rounded
    noise: float = 0.0  # the square of the norm that rounding has in `rows`

    def has_changed(self, pairs: Sequence[tuple[Array, Array]]) -> bool:
        if any(trained(before, after) for before, after in pairs if before is not after):
            return True
        if any(before.dtype != after.dtype for before, after in pairs):
            differs = any(not _same_values(before, after) for before, after in pairs)
            self.rounded += differs
            self.coarse |= {_coarser(*pairs[0]).dtype.name} if differs else set()
        return False

    def matrix(self, weight: _Weight, pairs: Sequence[tuple[Array, Array]], cut: Cut) -> None:
        delta, row = _delta(weight, pairs, cut)
        self.rows.append(row)
        self.deltas += [delta] if delta is not None else []
        for pair in pairs:
            coarse = _coarser(*pair)
            if coarse.dtype.itemsize == 2:
                self.noise += rounding(coarse) ** 2
                self.coarse.add(coarse.dtype.name)

    def vector(self, name: str, after: Array) -> None:
        if not np.isfinite(after.astype(np.float32)).all():
            raise _not_finite(name)
        self.replacements.append(Replacement(name=name, value=np.array(after)))

    def notes(self) -> tuple[str, ...]:
        dtypes, notes = " and ".join(sorted(self.coarse)), []
        if self.rounded:
            notes.append(f"left out: {self.rounded} tensors, which differ by rounding to {dtypes}")
        left = math.hypot(*(row.norm * row.residual for row in self.rows))
        whole = math.hypot(*(row.norm for row in self.rows))
        if self.noise and left > SAID * whole:
            part = min(math.sqrt(self.noise), left) / whole
            notes.append(
                f"of the residual of {left / whole:.2g}, the rounding of {dtypes} explains up to "
                f"{part:.2g}"
            )
        return tuple(notes)


SAID = 0.01  # a residual of less needs no explanation


def _same_values(before: Array, after: Array) -> bool:
    return np.array_equal(before.astype(np.float32), after.astype(np.float32))


def _coarser(before: Array, after: Array) -> Array:
    return max(after, before, key=lambda array: -mantissa(array))


def _not_finite(name: str) -> AdapterError:
    return AdapterError(f"{name}: NaN or infinity in the tuned model")


def _delta(
    weight: _Weight, pairs: Sequence[tuple[Array, Array]], cut: Cut
) -> tuple[Delta | None, ModuleResidual]:
    """The cut of what changed, one product for each expert; every expert gets the same rank."""
    changes = [after.astype(np.float32) - before.astype(np.float32) for before, after in pairs]
    norms = [dense_norm(change) for change in changes]
    if not all(map(math.isfinite, norms)):
        raise _not_finite(weight.module)
    n_out, n_in = changes[0].shape
    axes = (len(changes),) if weight.experts else ()
    like = Delta(
        module=weight.module,
        site=weight.site,
        a=np.zeros((*axes, 1, n_in), np.float32),
        b=np.zeros((*axes, n_out, 1), np.float32),
        scale=1.0,
    )
    stored = stacked([cut_dense(change, cut) for change in changes], like, None)
    norm = math.hypot(*norms)
    return stored, ModuleResidual(
        module=weight.module,
        site=weight.site.value,
        rank_before=min(n_out, n_in),
        rank_after=0 if stored is None else stored.rank,
        norm=norm,
        residual=_error(changes, stored) / norm if stored and norm else 1.0,
    )


def _error(changes: Sequence[Array], stored: Delta) -> float:
    """The Frobenius norm of what the delta misses."""
    pairs = [(stored.b, stored.a)] if stored.a.ndim == 2 else zip(stored.b, stored.a, strict=True)
    return math.hypot(*(dense_error(c, b, a) for c, (b, a) in zip(changes, pairs, strict=True)))
