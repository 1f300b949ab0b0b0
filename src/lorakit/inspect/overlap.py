"""How much two adapters have to do with each other: the question before `combine`.

For each module that both change, with deltas D1 and D2 (scale * B @ A):

    cosine    <D1, D2>_F / (||D1||_F ||D2||_F): 1 the same change, 0 none of the other, -1 opposed
    inputs    what they read: overlap of the row spaces, [0, 1]
    outputs   where they write: overlap of the column spaces, [0, 1]

The overlap of two spaces with orthonormal bases U [n, i] and V [n, j] is
||U^T V||_F^2 / min(i, j) (Hu et al. 2021, LoRA, section 7.2): the mean squared cosine of the
principal angles, which are the arc cosines of the singular values of U^T V (Bjorck and Golub 1973).
Two random spaces have max(i, j) / n of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.algebra.lowrank import Cut, Product, cut_product
from lorakit.algebra.parts import products, require_finite
from lorakit.errors import MismatchError, ParameterError

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleOverlap:
    """One module that both change; of experts the means over them.

    chance_inputs, chance_outputs: what random spaces of their sizes would have. angles_inputs,
    angles_outputs: the principal angles in degrees, the smallest first. norms: of the two deltas.
    """

    module: str
    site: str
    cosine: float
    inputs: float
    outputs: float
    chance_inputs: float
    chance_outputs: float
    angles_inputs: tuple[float, ...]
    angles_outputs: tuple[float, ...]
    norms: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two adapters beside each other.

    cosine: of the two as whole vectors of all their deltas; inputs, outputs: means over the shared
    modules, weighted by the product of the norms. only_first, only_second: modules of one alone.
    """

    modules: tuple[ModuleOverlap, ...]
    cosine: float
    inputs: float
    outputs: float
    chance_inputs: float
    chance_outputs: float
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def overlap(first: Adapter, second: Adapter) -> Overlap:
    """Compare the deltas of two adapters of one base, at their own scales.

    Only factors are multiplied, never a whole matrix. Raises ParameterError (they share no module),
    MismatchError (shapes that differ, all at once) and AdapterError (values that are not finite).
    """
    require_finite([first, second])
    pairs = _pairs(first, second)
    modules = tuple(_module(*pair) for pair in pairs)
    mine, other = ({d.key for d in adapter.deltas} for adapter in (first, second))
    dot = sum(m.cosine * m.norms[0] * m.norms[1] for m in modules)
    norms = [_norm(adapter) for adapter in (first, second)]
    return Overlap(
        modules=modules,
        cosine=dot / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0,
        inputs=_mean(modules, "inputs"),
        outputs=_mean(modules, "outputs"),
        chance_inputs=_mean(modules, "chance_inputs"),
        chance_outputs=_mean(modules, "chance_outputs"),
        only_first=tuple(sorted({module for module, _ in mine - other})),
        only_second=tuple(sorted({module for module, _ in other - mine})),
        notes=tuple(_notes(first, second)),
    )


Pair = tuple[str, str, list[Product], list[Product]]


def _pairs(first: Adapter, second: Adapter) -> list[Pair]:
    others = {delta.key: delta for delta in second.deltas}
    shared = [(delta, others[delta.key]) for delta in first.deltas if delta.key in others]
    if not shared:
        raise ParameterError(
            "these adapters change no module together, so nothing overlaps",
            hint="combined, each acts on its own modules",
        )
    faults = [
        f"{one.module}: [{one.out_features}, {one.in_features}] in the first, "
        f"[{other.out_features}, {other.in_features}] in the second"
        for one, other in shared
        if (one.a.shape[:-2], one.in_features, one.out_features)
        != (other.a.shape[:-2], other.in_features, other.out_features)
    ]
    if faults:
        raise MismatchError("these adapters are of different bases", items=faults)
    return [(a.module, a.site.value, products(a), products(b)) for a, b in shared]


def _module(
    module: str, site: str, first: Sequence[Product], second: Sequence[Product]
) -> ModuleOverlap:
    dot = sum(_dot(one, other) for one, other in zip(first, second, strict=True))
    norms = [math.hypot(*(product.norm() for product in side)) for side in (first, second)]
    rows, columns = zip(*map(_spaces, first), strict=True)
    other_rows, other_columns = zip(*map(_spaces, second), strict=True)
    inputs, outputs = _compared(rows, other_rows), _compared(columns, other_columns)
    return ModuleOverlap(
        module=module,
        site=site,
        cosine=dot / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0,
        inputs=inputs.share,
        outputs=outputs.share,
        chance_inputs=inputs.chance,
        chance_outputs=outputs.chance,
        angles_inputs=inputs.angles,
        angles_outputs=outputs.angles,
        norms=(norms[0], norms[1]),
    )


def _dot(first: Product, second: Product) -> float:
    """<B1 A1, B2 A2>_F = sum of (B1^T B2) * (A1 A2^T), entry by entry."""
    return float(np.sum((first.b.T @ second.b) * (first.a @ second.a.T)))


def _spaces(product: Product) -> tuple[F64, F64]:
    """Orthonormal bases of the row and the column space, [n, k], without directions of zero."""
    kept = cut_product(product, Cut(rank=max(product.a.shape[0], 1)))
    size = np.linalg.norm(kept.b, axis=0)  # both factors hold the root of the singular values
    size[size == 0] = 1.0
    return kept.a.T / size, kept.b / size


@dataclass(frozen=True, slots=True)
class _Compared:
    share: float
    chance: float
    angles: tuple[float, ...]


def _compared(first: Sequence[F64], second: Sequence[F64]) -> _Compared:
    """Spaces of one side, one for each expert; the angles are of as many as all of them have."""
    pairs = list(zip(first, second, strict=True))
    cosines = [_cosines(one, other) for one, other in pairs]
    shares = [float(np.mean(np.square(each))) if each.size else 0.0 for each in cosines]
    chances = [max(one.shape[1], other.shape[1]) / one.shape[0] for one, other in pairs]
    count = min(each.size for each in cosines)
    angles = np.mean([np.degrees(np.arccos(each[:count])) for each in cosines], axis=0)
    return _Compared(float(np.mean(shares)), float(np.mean(chances)), tuple(angles.tolist()))


def _cosines(first: F64, second: F64) -> F64:
    """Of the principal angles, descending; as many as the smaller space has dimensions."""
    if not (first.shape[1] and second.shape[1]):
        return np.zeros(0)
    return np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0)


def _mean(modules: Sequence[ModuleOverlap], name: str) -> float:
    weights = [m.norms[0] * m.norms[1] for m in modules]
    pairs = zip(weights, modules, strict=True)
    whole = sum(weights)
    return sum(weight * getattr(m, name) for weight, m in pairs) / whole if whole else 0.0


def _norm(adapter: Adapter) -> float:
    return math.hypot(*(product.norm() for delta in adapter.deltas for product in products(delta)))


def _notes(first: Adapter, second: Adapter) -> list[str]:
    """What an adapter has beside its deltas, which is not compared."""
    return [
        f"{name}: {', '.join(left)} not compared"
        for name, adapter in (("the first", first), ("the second", second))
        if (left := sorted(adapter.features & {"dora", "replacement", "rows", "delta_bias"}))
    ]
