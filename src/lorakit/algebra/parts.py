"""From a delta to products, one for each expert, and back to a delta of float32 factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lorakit.adapter import Adapter, Array, Delta
from lorakit.algebra.lowrank import Product
from lorakit.algebra.report import ModuleResidual
from lorakit.errors import AdapterError, ParameterError


def products(delta: Delta, weight: float = 1.0) -> list[Product]:
    """weight * scale * B @ A in float64: one product, or one for each expert."""
    pairs = [(delta.b, delta.a)] if delta.a.ndim == 2 else list(zip(delta.b, delta.a, strict=True))
    factor = weight * delta.scale
    return [Product(b.astype(np.float64) * factor, a.astype(np.float64)) for b, a in pairs]


def joined(parts: Sequence[Product]) -> Product:
    """The sum of products, as one product of all their ranks."""
    return Product(np.hstack([p.b for p in parts]), np.vstack([p.a for p in parts]))


def stacked(
    found: Sequence[Product], like: Delta, bias: Array | None, *, keep: bool = False
) -> Delta | None:
    """A delta of scale 1 in float32. None where rank and bias are nothing, unless `keep`.

    Experts share one rank: those of a lower one are padded with zeros.
    """
    rank = max(p.a.shape[0] for p in found)
    if rank == 0 and bias is None and not keep:
        return None
    rank = max(rank, 1)
    a = np.zeros((len(found), rank, found[0].a.shape[1]), np.float32)
    b = np.zeros((len(found), found[0].b.shape[0], rank), np.float32)
    with np.errstate(over="ignore"):
        for index, p in enumerate(found):
            a[index, : p.a.shape[0]], b[index, :, : p.b.shape[1]] = p.a, p.b
    if not all(np.isfinite(x).all() for x in (a, b, bias) if x is not None):
        raise ParameterError(f"{like.module}: the result is too large for float32")
    if like.a.ndim == 2:
        a, b = a[0], b[0]
    return Delta(module=like.module, site=like.site, a=a, b=b, scale=1.0, bias=bias)


def measured(exact: Sequence[Product], stored: Delta | None, like: Delta) -> ModuleResidual:
    """How far a stored delta is from the exact products, both taken as they are."""
    norms = [p.norm() for p in exact]
    norm = math.hypot(*norms)
    if stored is None:
        error = norm
    else:
        pairs = zip(exact, products(stored), strict=True)
        error = math.hypot(*(p.minus(q).norm() for p, q in pairs))
    return ModuleResidual(
        module=like.module,
        site=like.site.value,
        rank_before=exact[0].a.shape[0],
        rank_after=0 if stored is None else stored.rank,
        norm=norm,
        residual=error / norm if norm else 0.0,
    )


def require_finite(adapters: Sequence[Adapter]) -> None:
    """AdapterError that names every array with NaN or infinity."""
    faults = [
        f"adapter {number}: {name}"
        for number, adapter in enumerate(adapters, 1)
        for name in adapter.non_finite()
    ]
    if faults:
        raise AdapterError(
            "NaN or infinity in the adapter",
            items=faults,
            hint="the training diverged, or the file is damaged",
        )
