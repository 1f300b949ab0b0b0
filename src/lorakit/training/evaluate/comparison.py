"""Several evaluations of the same examples beside each other, and what the differences say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.training.data import Example
from lorakit.training.evaluate.contestants import Contestant
from lorakit.training.evaluate.evaluation import Evaluation, perplexity_text
from lorakit.training.evaluate.outcome import INVALID, NO_CALL, asked
from lorakit.training.evaluate.statistics import Paired, Share, p_text

CONFUSED = 2  # pairs of tools that a verdict names
NAMED = 3  # answers
PLAINLY = {NO_CALL: "no call", INVALID: "an invalid call"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One that was evaluated. against: what it does better and worse than the first."""

    contestant: Contestant
    evaluation: Evaluation
    against: Paired | None = None

    @property
    def name(self) -> str:
        return self.contestant.name

    def to_dict(self, *, outcomes: bool = True) -> dict[str, Any]:
        """For JSON."""
        contestant = self.contestant
        return {
            "name": self.name,
            "base": contestant.base,
            "adapters": [each.to_list() for each in contestant.adapters],
            "merged": contestant.merged,
            "constrained": contestant.constrained,
            "engine": contestant.engine,
            "quantize": contestant.quantize,
            "scale": contestant.scale,
            "against_first": self.against.to_dict() if self.against else None,
            **self.evaluation.to_dict(outcomes=outcomes),
        }


@dataclass(frozen=True, slots=True)
class Learnt:
    """What an adapter has seen: the phrasings of its training data, and the very requests."""

    phrasings: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Learnt:
        """Of the training data."""
        examples = list(examples)
        return cls(
            frozenset(each.phrasing for each in examples),
            frozenset(_key(each) for each in examples),
        )

    def knows(self, example: Example) -> bool:
        """Whether the very request was learnt from."""
        return _key(example) in self.requests


def _key(example: Example) -> str:
    return asked(example).strip().casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What constraints make of a side's answers: the places of those that are right only with them
    (gained) and only without (lost), how many cannot be carried out without and with them, and how
    many of all could not be constrained, since they have no tools."""

    name: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    invalid: tuple[int, int]
    unconstrained: int
    total: int

    @classmethod
    def of(cls, name: str, free: Evaluation, constrained: Evaluation) -> Constraints:
        """Of two evaluations of the same examples in the same order."""
        both = list(zip(free.outcomes, constrained.outcomes, strict=True))
        answered = [(a, b) for a, b in both if a.score is not None]
        return cls(
            name=name,
            gained=tuple(b.example.place for a, b in answered if b.exact and not a.exact),
            lost=tuple(b.example.place for a, b in answered if a.exact and not b.exact),
            invalid=(free.invalid.count, constrained.invalid.count),
            unconstrained=sum(not b.constrained for _, b in answered),
            total=len(answered),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        without, within = self.invalid
        return {
            "name": self.name,
            "gained": list(self.gained),
            "lost": list(self.lost),
            "invalid": {"free": without, "constrained": within},
            "unconstrained": self.unconstrained,
            "total": self.total,
        }

    def __str__(self) -> str:
        said = f"{self.name}: constraints gain {_count(self.gained)}"
        if self.lost:
            places = ", ".join(self.lost[:NAMED]) + ", ..." * (len(self.lost) > NAMED)
            said += f" and lose {_count(self.lost)} ({places})"
        else:
            said += " and lose none: exact match is never lowered"
        if any(self.invalid):
            said += "; {} answers that cannot be carried out become {}".format(*self.invalid)
        if self.unconstrained:
            said += f"; {self.unconstrained} of {self.total} have no tools and were answered freely"
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The sides, the first being what the others are compared with.

    declare: as in `evaluate`. learnt: what the first was trained on, where that is told.
    """

    sides: tuple[Side, ...]
    declare: bool = False
    learnt: Learnt | None = None

    @classmethod
    def of(
        cls,
        found: Sequence[tuple[Contestant, Evaluation]],
        *,
        declare: bool = False,
        learnt: Learnt | None = None,
    ) -> Comparison:
        """Of evaluations of the same examples in the same order."""
        first = found[0][1]
        sides = [
            Side(
                contestant=contestant,
                evaluation=evaluation,
                against=None if place == 0 else _paired(first, evaluation),
            )
            for place, (contestant, evaluation) in enumerate(found)
        ]
        return cls(sides=tuple(sides), declare=declare, learnt=learnt)

    @property
    def first(self) -> Side:
        return self.sides[0]

    @property
    def others(self) -> tuple[Side, ...]:
        """Those that are compared with the first, without the steps of a sweep."""
        return tuple(side for side in self.sides[1:] if side.contestant.scale is None)

    @property
    def sweep(self) -> tuple[Side, ...]:
        """The steps of a sweep, by scale."""
        steps = [side for side in self.sides if side.contestant.scale is not None]
        return tuple(sorted(steps, key=lambda side: side.contestant.scale or 0.0))

    @property
    def best_scale(self) -> Side | None:
        """The step that does best; of several the one nearest to 1. None without a sweep."""
        return max(
            self.sweep,
            key=lambda side: (side.evaluation.goal, -abs((side.contestant.scale or 0.0) - 1)),
            default=None,
        )

    @property
    def by_novelty(self) -> dict[str, Share]:
        """The first's right answers in phrasings that it knows from training, and in new ones."""
        if self.learnt is None:
            return {}
        groups: dict[str, list[bool]] = {"known phrasings": [], "new phrasings": []}
        for each in self.first.evaluation.outcomes:
            if each.score is not None:
                known = each.example.phrasing in self.learnt.phrasings
                groups["known phrasings" if known else "new phrasings"].append(each.exact)
        return {name: Share.of(found) for name, found in groups.items() if found}

    @property
    def leaked(self) -> int:
        """How many of the examples are in the training data, to the letter."""
        outcomes = self.first.evaluation.outcomes
        return 0 if self.learnt is None else sum(self.learnt.knows(o.example) for o in outcomes)

    @property
    def verdict(self) -> list[str]:
        """What was found, in sentences."""
        first = self.first.evaluation
        said = [f"{self.first.name}: {first.headline}"]
        if first.perplexity is not None and not first.by_perplexity:
            said[0] += f", perplexity {perplexity_text(first.perplexity)} of the texts"
        said += [f"{name}: {share}" for name, share in self.by_novelty.items()]
        if self.leaked:
            said.append(
                f"{self.leaked} of the examples are in the training data too: what it makes of "
                "those says nothing"
            )
        said += [_against(side, self.first.name) for side in self.others]
        said += [str(each) for each in self.constraints]
        if confused := first.confusions.most_common(CONFUSED):
            pairs = [
                f"{PLAINLY.get(called, called)} in place of {PLAINLY.get(wanted, wanted)} ({n})"
                for (wanted, called), n in confused
            ]
            said.append(f"wrong most often: {', '.join(pairs)}")
        best = self.best_scale
        if best is not None and len({side.evaluation.goal for side in self.sweep}) > 1:
            said.append(
                f"best scale of {len(self.sweep)} here: {best.contestant.scale:g} "
                f"({_short(best.evaluation)}); chosen on these very examples it looks a little "
                "better than it is"
            )
        return said

    @property
    def constraints(self) -> list[Constraints]:
        """Of each side that is constrained, and that answered freely too."""
        plain = [side for side in self.sides if side.contestant.scale is None]
        free = {s.contestant.free: s.evaluation for s in plain if not s.contestant.constrained}
        return [
            Constraints.of(side.name, free[side.contestant.free], side.evaluation)
            for side in plain
            if side.contestant.constrained and side.contestant.free in free
        ]

    def to_dict(self, *, outcomes: bool = True) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict,
            "declare": self.declare,
            "by_novelty": {name: share.to_dict() for name, share in self.by_novelty.items()},
            "leaked": self.leaked,
            "best_scale": self.best_scale.contestant.scale if self.best_scale else None,
            "constraints": [each.to_dict() for each in self.constraints],
            "sides": [side.to_dict(outcomes=outcomes) for side in self.sides],
        }


def _count(places: Sequence[str]) -> str:
    return f"{len(places) or 'no'} right answer{'s' * (len(places) != 1)}"


def _paired(first: Evaluation, other: Evaluation) -> Paired:
    """By score where answers are judged, by loss where only texts were read."""
    if first.by_perplexity:
        return Paired.of(*([-each.loss for each in side.outcomes] for side in (first, other)))
    return Paired.of(*([each.score or 0.0 for each in side.outcomes] for side in (first, other)))


def _against(side: Side, first: str) -> str:
    assert side.against is not None
    paired = side.against
    if not paired.better + paired.worse:
        how = f"no difference to {first} on any example"
    else:
        how = f"better on {paired.better} and worse on {paired.worse}, {p_text(paired.p)}"
    return f"{side.name}: {_short(side.evaluation)}; {how}"


def _short(evaluation: Evaluation) -> str:
    """The figure that fits the task, alone."""
    if evaluation.by_perplexity:
        return f"perplexity {perplexity_text(evaluation.perplexity)}"
    return f"{evaluation.score:.1%}"
