"""How much of an adapter each rank would keep: the question before `resize`.

The best approximation of rank k of a matrix leaves out the squares of the singular values after the
k-th (Eckart and Young 1936), so one look at the spectra answers it for every rank at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Delta
from lorakit.algebra.parts import require_finite
from lorakit.errors import ParameterError
from lorakit.inspect.spectrum import spectra
from lorakit.values import finite, shown

F64 = npt.NDArray[np.float64]
FLOAT32 = 4  # bytes of a number, as resize stores it


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPoint:
    """What `resize(adapter, rank)` would give.

    residual: ||resized - whole||_F / ||whole||_F over all modules together; energy: the share of
    the squares that is kept, 1 - residual^2; worst: the module of the largest residual, with it;
    nbytes: of the factors, in float32.
    """

    rank: int
    residual: float
    energy: float
    worst: str
    worst_residual: float
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCurve:
    """Every rank from 1 to the largest that an adapter has, each with what it would keep."""

    points: tuple[RankPoint, ...]
    nbytes: int  # of the factors as they are stored now

    def least(self, energy: float) -> RankPoint:
        """The point of the least rank that keeps the share `energy` of the squares.

        Raises ParameterError for a share that is not above 0 and at most 1.
        """
        if not (finite(energy) and 0 < energy <= 1):
            raise ParameterError(f"energy must be above 0 and at most 1, found {shown(energy)}")
        held = (point for point in self.points if point.energy >= energy * (1 - 1e-12))
        return next(held, self.points[-1])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"points": [asdict(point) for point in self.points], "nbytes": self.nbytes}


def rank_curve(adapter: Adapter) -> RankCurve:
    """What `resize` would keep of an adapter's deltas at each rank.

    Cost: one QR and one small SVD per matrix; no product is formed. Raises ParameterError (an
    adapter without deltas) and AdapterError (values that are not finite).
    """
    if not adapter.deltas:
        raise ParameterError("the adapter holds no low-rank delta, so there is no rank to choose")
    require_finite([adapter])
    tails = {delta.key: _tails(delta) for delta in adapter.deltas}
    points = [
        _point(rank, adapter.deltas, [tails[delta.key] for delta in adapter.deltas])
        for rank in range(1, adapter.max_rank + 1)
    ]
    stored = sum(int(delta.a.nbytes + delta.b.nbytes) for delta in adapter.deltas)
    return RankCurve(points=tuple(points), nbytes=stored)


def _tails(delta: Delta) -> F64:
    """[rank + 1]: the sum of the squares that rank k leaves out, of all experts together."""
    total = np.zeros(delta.rank + 1)
    for found in spectra(delta):
        squares = np.zeros(delta.rank)
        squares[: len(found.values)] = np.square(found.values)
        total[:-1] += np.cumsum(squares[::-1])[::-1]
    return total


def _point(rank: int, deltas: Sequence[Delta], tails: Sequence[F64]) -> RankPoint:
    lost = [float(tail[min(rank, len(tail) - 1)]) for tail in tails]
    whole = [float(tail[0]) for tail in tails]
    shares = [math.sqrt(a / b) if b else 0.0 for a, b in zip(lost, whole, strict=True)]
    worst = max(range(len(deltas)), key=lambda place: shares[place])
    share = sum(lost) / sum(whole) if sum(whole) else 0.0
    return RankPoint(
        rank=rank,
        residual=math.sqrt(share),
        energy=1.0 - share,
        worst=deltas[worst].module,
        worst_residual=shares[worst],
        nbytes=sum(FLOAT32 * _numbers(delta, rank) for delta in deltas),
    )


def _numbers(delta: Delta, rank: int) -> int:
    """Of both factors at a rank; resize leaves out singular values of zero besides."""
    experts = len(delta.a) if delta.a.ndim == 3 else 1
    return experts * min(rank, delta.rank) * (delta.in_features + delta.out_features)
