"""What an operation on adapters cost: per module the ranks and the relative residual."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleResidual:
    """One module before and after. A rank after of 0 means that no change was left to store.

    norm: Frobenius norm of what was to be expressed; residual: ||stored - exact||_F over it, as
    measured on the stored numbers (0 where both are zero).
    """

    module: str
    site: str
    rank_before: int
    rank_after: int
    norm: float
    residual: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualReport:
    """All modules; `skipped` names what changed and was not asked for, `notes` is for people.

    strengths: of each adapter that was combined, at its weight, the norm of all its deltas; shares:
    how much of their sum is its own, which add up to 1 (see strengths.py).
    """

    method: str
    modules: tuple[ModuleResidual, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strengths: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def residual(self) -> float:
        """Of all modules together: sqrt(sum of squared errors / sum of squared norms)."""
        whole = math.hypot(*(m.norm for m in self.modules))
        return math.hypot(*(m.norm * m.residual for m in self.modules)) / whole if whole else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()} | {
            "residual": self.residual
        }
