"""Several adapters as one: the exact sum by default, or an approximation with its residual.

    concatenate   exact: the ranks side by side, weights and scales folded in
    svd           concatenate, then cut to a rank or an energy
    magnitude     of each delta only its largest entries, then the sum, then a truncated SVD
    ties          trim, elect signs, mean of those that agree (Yadav et al. 2023)
    dare          drop at random and rescale by 1 / density, then the sum (Yu et al. 2024)

Sums mean what the adapters do when all are active at their weights. It knows no bases: whether the
adapters belong to the same one it sees only from what they say of theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Precondition, natural
from lorakit.algebra.lowrank import Cut, cut_product
from lorakit.algebra.parts import joined, measured, products, require_finite, stacked
from lorakit.algebra.peft_words import AnyMethod, in_our_words
from lorakit.algebra.report import ModuleResidual, ResidualReport
from lorakit.algebra.require import require_linear
from lorakit.algebra.sparse import Method as Method
from lorakit.algebra.sparse import Sparse, sparse_delta
from lorakit.algebra.strengths import strengths, uneven
from lorakit.errors import ParameterError
from lorakit.values import finite, shown

MAX = sys.float_info.max  # of a weight; what it makes of a delta is checked there
Weighted = tuple[Adapter, float]
Part = tuple[int, Delta, float]  # number of the adapter, its delta, its weight


def combine(
    adapters: Sequence[Weighted],
    method: AnyMethod = "concatenate",
    *,
    rank: int | None = None,
    energy: float | None = None,
    density: float = 0.5,
    seed: int = 0,
) -> tuple[Adapter, ResidualReport]:
    """One adapter for several at their weights, and how far it is from their exact sum.

    method: one of the above, or PEFT's word for it (cat, linear, ...); where PEFT's own computes
    something else, a note of the report says so.

    An adapter given more than once counts once, with the sum of its weights; a weight of 0 leaves
    it out, so that `a - a` has no delta at all. rank, energy: as in `resize`; for every method but
    concatenate. density: the share of entries kept by ties, dare and magnitude, whose residual is
    against their own sparse target; seed: for dare's choice and large SVDs.

    Raises ParameterError for arguments, AdapterError for values that are not finite, and
    UnsupportedError that lists everything that cannot be summed.
    """
    method, meant = in_our_words(method)
    sparse = Sparse(method=method, density=density, seed=seed)
    cut = _cut(method, rank, energy)
    weighted = _distinct(adapters)
    require_finite([adapter for adapter, _ in adapters])
    require_linear([adapter for adapter, _ in adapters], exact=method in ("concatenate", "svd"))
    found = []
    for parts in _by_module(weighted):
        if cut is None:
            found.append(_concatenated(parts))
        elif method == "svd":
            found.append(_summed(parts, cut))
        else:
            found.append(sparse_delta(parts, sparse, cut))
    strong = strengths(weighted)
    report = ResidualReport(
        method=method,
        modules=tuple(row for _, row in found),
        notes=(*meant, *_notes(adapters), *uneven(strong.norms)),
        strengths=strong.norms,
        shares=strong.shares,
    )
    deltas = tuple(delta for delta, _ in found if delta is not None)
    like = _like([adapter for adapter, _ in adapters], deltas)
    # replacements hold while any adapter is active, at whatever weight but 0
    return like if any(w for _, w in weighted) else replace(like, replacements=()), report


def subtract(first: Adapter, second: Adapter, **options: Any) -> tuple[Adapter, ResidualReport]:
    """`first - second`: what `combine` gives for the weights 1 and -1; options as there."""
    return combine([(first, 1.0), (second, -1.0)], **options)


def _cut(method: str, rank: int | None, energy: float | None) -> Cut | None:
    if method != "concatenate":
        return Cut(rank=rank, energy=energy)
    if rank is not None or energy is not None:
        raise ParameterError(
            "concatenation is exact and takes neither rank nor energy", hint='use method="svd"'
        )
    return None


def _distinct(adapters: Sequence[Weighted]) -> list[Weighted]:
    """Each adapter once, with the sum of its weights."""
    if not adapters:
        raise ParameterError("name at least one adapter")
    weights = [weight for _, weight in adapters]
    faults = [f"adapter {n}: {shown(w)}" for n, w in enumerate(weights, 1) if not finite(w, MAX)]
    if faults:
        raise ParameterError("weights must be finite numbers", items=faults)
    sums: dict[Adapter, float] = {}
    for adapter, weight in adapters:
        sums[adapter] = sums.get(adapter, 0.0) + weight
    return list(sums.items())


def _by_module(adapters: Sequence[Weighted]) -> list[list[Part]]:
    table: dict[tuple[str, str], list[Part]] = {}
    for number, (adapter, weight) in enumerate(adapters):
        for delta in adapter.deltas:
            table.setdefault(delta.key, []).append((number, delta, weight))
    return [table[key] for key in sorted(table, key=lambda key: (natural(key[0]), key[1]))]


def _active(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part[1].scale * part[2] != 0]


def _concatenated(parts: Sequence[Part]) -> tuple[Delta | None, ModuleResidual]:
    """Ranks side by side. Where all factors are one number it stays the scale, and nothing is
    rounded; else it goes into B, in float32."""
    active, like = _active(parts), parts[0][1]
    factors = {delta.scale * weight for _, delta, weight in active}
    dtypes = {array.dtype for _, delta, _ in active for array in (delta.a, delta.b)}
    exact = [joined(group) for group in _grouped(active or parts[:1], 1.0 if active else 0.0)]
    if not active:
        return None, measured(exact, None, like)
    bias = _bias(active)
    if len(factors) == 1 and len(dtypes) == 1 and bias is None:
        a = np.concatenate([delta.a for _, delta, _ in active], axis=-2)
        b = np.concatenate([delta.b for _, delta, _ in active], axis=-1)
        kept = Delta(module=like.module, site=like.site, a=a, b=b, scale=factors.pop())
        return kept, measured(exact, kept, like)
    stored = stacked(exact, like, bias)
    return stored, measured(exact, stored, like)


def _summed(parts: Sequence[Part], cut: Cut) -> tuple[Delta | None, ModuleResidual]:
    active, like = _active(parts), parts[0][1]
    exact = [joined(group) for group in _grouped(active or parts[:1], 1.0 if active else 0.0)]
    stored = stacked([cut_product(product, cut) for product in exact], like, _bias(active))
    return stored, measured(exact, stored, like)


def _grouped(parts: Sequence[Part], factor: float) -> list[Any]:
    """The products of all parts, a group for each expert."""
    per_part = [products(delta, weight * factor) for _, delta, weight in parts]
    return list(zip(*per_part, strict=True))


def _bias(parts: Sequence[Part]) -> Array | None:
    terms = [
        delta.bias.astype(np.float64) * (delta.scale * weight)
        for _, delta, weight in parts
        if delta.bias is not None
    ]
    return np.sum(terms, axis=0).astype(np.float32) if terms else None


def _like(adapters: Sequence[Adapter], deltas: tuple[Delta, ...]) -> Adapter:
    """What all adapters agree on, with these deltas."""
    names = {a.precondition.name for a in adapters}
    prints = {a.precondition.fingerprint for a in adapters}
    return replace(
        adapters[0],
        deltas=deltas,
        precondition=Precondition(
            name=names.pop() if len(names) == 1 else None,
            fingerprint=prints.pop() if len(prints) == 1 else None,
        ),
        metadata=_common([a.metadata for a in adapters]),
    )


def _common(tables: Sequence[Any]) -> dict[str, Any]:
    """The entries that all tables share, one level of nesting deep."""
    shared: dict[str, Any] = {}
    for key, value in tables[0].items():
        others = [table.get(key) for table in tables[1:]]
        if all(isinstance(other, dict) for other in [value, *others]):
            shared[key] = {k: v for k, v in value.items() if all(o.get(k) == v for o in others)}
        elif all(other == value for other in others):
            shared[key] = value
    return shared


def _notes(adapters: Sequence[Weighted]) -> tuple[str, ...]:
    names = sorted({a.precondition.name for a, _ in adapters if a.precondition.name})
    return (f"the adapters name different bases: {', '.join(names)}",) if len(names) > 1 else ()
