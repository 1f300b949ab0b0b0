"""Another rank for an adapter: each delta cut to the best approximation of a rank or an energy.

Through QR of the factors and an SVD of the small core, in float64; the full matrix is never formed.
Replacements, invocation tokens and DoRA's magnitudes stay as they are: beside magnitudes, the
residual is that of B @ A, not of the weight that DoRA makes of it.
"""

from __future__ import annotations

from dataclasses import replace

from lorakit.adapter import Adapter
from lorakit.algebra.lowrank import Cut, cut_product
from lorakit.algebra.parts import measured, products, require_finite, stacked
from lorakit.algebra.report import ResidualReport


def resize(
    adapter: Adapter, rank: int | None = None, energy: float | None = None
) -> tuple[Adapter, ResidualReport]:
    """The adapter at `rank` at most, or at the least rank with the share `energy` of the squared
    singular values (of each module; for experts the largest of them), or both.

    Factors are balanced (each holds the root of the singular values), float32, scale 1. A delta
    that is zero is left out. Raises ParameterError (no rank and no energy, or out of range) and
    AdapterError (values that are not finite).
    """
    cut = Cut(rank=rank, energy=energy)
    require_finite([adapter])
    scaled = {magnitude.module for magnitude in adapter.magnitudes}
    deltas, modules = [], []
    for delta in adapter.deltas:
        exact = products(delta)
        bias = None if delta.bias is None else delta.bias.astype("f4") * delta.scale
        smaller = [cut_product(product, cut) for product in exact]
        stored = stacked(smaller, delta, bias, keep=delta.module in scaled)
        deltas.append(stored)
        modules.append(measured(exact, stored, delta))
    kept = tuple(delta for delta in deltas if delta is not None)
    most = max((delta.rank for delta in adapter.deltas), default=0)
    uncut = rank is not None and most <= rank and energy is None
    notes = (f"no module has a rank above {most}: at {rank} nothing is cut off",) if uncut else ()
    report = ResidualReport(method="svd", modules=tuple(modules), notes=notes)
    return replace(adapter, deltas=kept), report
