"""What an export was found to be beside base + adapter in float32: numbers, limits, a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import ParameterError, ParityError
from lorakit.values import finite, shown, truth

VERSION = 1
NOTABLE = 0.8  # share of the other's KL below which one way of exporting is called more accurate


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofOptions:
    """On what an export is compared, and when it fails.

    evaluation: a file of examples, see docs/data.md; else built-in texts. declare: with the
    declarations of the tools in their prompts. max_kl: nats, the mean over positions, of every set
    of adapters; None takes what the form may cost at most. min_match: share of answers that are
    the same. Raises ParameterError.
    """

    evaluation: Path | None = None
    declare: bool = False
    max_kl: float | None = None
    min_match: float | None = None

    def __post_init__(self) -> None:
        kl, match = self.max_kl, self.min_match
        if not truth(self.declare):
            raise ParameterError(f"declare is True or False, not {shown(self.declare)}")
        if kl is not None and not (finite(kl) and kl >= 0):
            raise ParameterError(f"max_kl must be finite and 0 or more, found {shown(kl)}")
        if match is not None and not (finite(match) and 0 <= match <= 1):
            raise ParameterError(f"min_match must be from 0 to 1, found {shown(match)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Greedy answers. same: as many are those of base + adapter: the same calls, and where there is
    none the same tokens. wanted: of how many it is known which calls are right; right: as many
    are, in the export; right_before: in base + adapter.
    """

    asked: int
    same: int
    calls: int = 0  # of them, answered with calls by base + adapter
    wanted: int = 0
    right: int = 0
    right_before: int = 0

    @property
    def match(self) -> float:
        """The share that is the same."""
        return self.same / self.asked if self.asked else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SideParity:
    """One set of adapters: its logits in the export and in float32.

    positions: compared. effect: the largest change that the adapters make; None where there is
    none, or where it is not known.
    """

    name: str
    positions: int
    max_difference: float
    kl: float
    top1: float
    effect: float | None
    answers: Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """KL of both ways to bring an adapter into a form: merged first, or kept beside weights."""

    merged: float
    apart: float

    @property
    def better(self) -> str:
        """Which one is the more accurate, "merged" or "apart"; empty where it hardly matters."""
        if self.apart < NOTABLE * self.merged:
            return "apart"
        return "merged" if self.merged < NOTABLE * self.apart else ""

    def sentence(self, form: str) -> str:
        """What to do, with both numbers."""
        both = (
            f"KL {self.apart:.3g} kept apart from the {form} base, {self.merged:.3g} merged first"
        )
        if not self.better:
            return f"keeping the adapter apart hardly matters: {both}"
        word = "keeping the adapter apart" if self.better == "apart" else "merging first"
        return f"{word} is more accurate: {both}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """An export beside base + adapter in float32. form: as its target calls it. most: nats of KL
    that the form may cost where nobody says. kind: merged, apart, dynamic or composed. reference,
    prompts, runtime: in words. faults: of the files beside the weights. warnings: what it does not
    prove.
    """

    form: str
    kind: str
    most: float
    reference: str
    runtime: str
    prompts: str
    sides: tuple[SideParity, ...]
    apart: Apart | None = None
    max_kl: float | None = None
    min_match: float | None = None
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def kl(self) -> float:
        """The largest of any set of adapters."""
        return largest([side.kl for side in self.sides])

    @property
    def match(self) -> float:
        """The smallest share of equal answers."""
        return min(side.answers.match for side in self.sides)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the export is not good enough; empty: it is."""
        most = self.most if self.max_kl is None else self.max_kl
        limit = "its limit" if self.max_kl is not None else f"what {self.form} may cost"
        least = self.min_match or 0.0
        far = [
            f"{side.name}: KL {side.kl:.3g}, {limit} is {most:g}"
            for side in self.sides
            if not side.kl <= most
        ]
        other = [
            f"{side.name}: {side.answers.same} of {side.answers.asked} answers are the same, at "
            f"least {100 * least:g}% are asked for"
            for side in self.sides
            if side.answers.match < least
        ]
        return (*self.faults, *far, *other)

    def require(self) -> None:
        """Raise ParityError where it fails."""
        if not self.failures:
            return
        limit = self.most if self.max_kl is None else self.max_kl
        better = self.kind == "merged" and self.apart is not None and self.apart.apart <= limit
        raise ParityError(
            "the export is not close enough to base + adapter in float32, and was removed",
            items=self.failures,
            hint="keep the adapter apart: --adapters apart"
            if better
            else "choose a form of more bits with --quantize, or allow more with --max-kl",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for parity.json; NaN becomes "nan"."""
        return {
            "version": VERSION,
            "agrees": not self.failures,
            "form": self.form,
            "adapters": self.kind,
            "reference": self.reference,
            "runtime": self.runtime,
            "prompts": self.prompts,
            "kl": _plain(self.kl),
            "match": self.match,
            "limits": {"max_kl": self.max_kl, "min_match": self.min_match},
            "sides": [_values(side) for side in self.sides],
            "apart": None if self.apart is None else _values(self.apart),
            "failures": list(self.failures),
            "warnings": list(self.warnings),
        }


def _values(row: SideParity | Apart) -> Mapping[str, Any]:
    found: Mapping[str, Any] = {key: _plain(value) for key, value in asdict(row).items()}
    return found


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def largest(values: Sequence[float]) -> float:
    """The largest; NaN where one is."""
    return math.nan if any(math.isnan(value) for value in values) else max(values)
