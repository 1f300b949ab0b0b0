"""One thing that does not fit, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One thing that does not fit. A warning does not keep the adapter from being used."""

    item: str
    expected: str
    found: str
    advice: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        advice = f" ({self.advice})" if self.advice else ""
        return f"{self.item}: expected {self.expected}, found {self.found}{advice}"
