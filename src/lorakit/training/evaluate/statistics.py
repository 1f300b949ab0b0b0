"""What a count of right answers says: shares with their intervals, and comparisons by pairs.

It knows numbers alone. Sources: E. B. Wilson 1927 (the score interval); Q. McNemar 1947, in its
exact form: the two-sided sign test on the pairs that differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z = 1.959963984540054  # of a 95% interval


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many; `share` is NaN where there are none to count."""

    count: int
    total: int

    @classmethod
    def of(cls, values: Iterable[bool]) -> Share:
        """How many of some values are true."""
        found = list(values)
        return cls(sum(map(bool, found)), len(found))

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def low(self) -> float:
        """The lower end of Wilson's 95% interval; 0 where nothing was counted."""
        return self._interval[0]

    @property
    def high(self) -> float:
        """The upper end; 1 where nothing was counted."""
        return self._interval[1]

    @property
    def _interval(self) -> tuple[float, float]:
        if not self.total:
            return 0.0, 1.0
        n, p, z2 = self.total, self.share, Z * Z
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        low = 0.0 if self.count == 0 else max(0.0, middle - half)
        return low, 1.0 if self.count == n else min(1.0, middle + half)

    def to_dict(self) -> dict[str, float] | None:
        """For JSON; None where nothing was counted."""
        if not self.total:
            return None
        numbers = {"share": self.share, "low": self.low, "high": self.high}
        rounded = {name: round(value, 6) for name, value in numbers.items()}
        return {"count": self.count, "total": self.total, **rounded}

    def __str__(self) -> str:
        """96.0% (92.3-98.0%)"""
        if not self.total:
            return "none"
        return f"{self.share:.1%} ({self.low * 100:.1f}-{self.high:.1%})"


@dataclass(frozen=True, slots=True)
class Paired:
    """Two sides on the same examples: where the second is better, and where it is worse.

    p: how likely a difference of this size is between sides that are equally good.
    """

    better: int
    worse: int

    @classmethod
    def of(cls, first: Sequence[float], second: Sequence[float]) -> Paired:
        """Of scores of the same examples in the same order; larger is better."""
        pairs = list(zip(first, second, strict=True))
        return cls(sum(b > a for a, b in pairs), sum(b < a for a, b in pairs))

    @property
    def p(self) -> float:
        n, few = self.better + self.worse, min(self.better, self.worse)
        whole = math.lgamma(n + 1) - n * math.log(2)
        tail = sum(
            math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(few + 1)
        )
        return min(1.0, 2 * tail)

    def to_dict(self) -> dict[str, float]:
        return {"better": self.better, "worse": self.worse, "p": self.p}


def p_text(p: float) -> str:
    """A p-value for people: p = 0.034, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
