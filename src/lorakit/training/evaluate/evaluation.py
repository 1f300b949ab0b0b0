"""Evaluation: what a model with some adapters makes of some examples, in figures."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from lorakit.training.data import Example
from lorakit.training.evaluate.outcome import Outcome
from lorakit.training.evaluate.statistics import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The outcomes, in the order of the examples.

    seconds: what all of it took together; settings that ran in one batch share it, and say the
    same. scored: how answers in words were judged: "text", or what a scorer is called.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0
    scored: str = "text"

    # The figures. Each is a Share; its `share` is NaN where there was nothing to count.

    @property
    def exact(self) -> Share:
        """Answers that are right in everything."""
        return Share.of(each.exact for each in self._answered)

    @property
    def names(self) -> Share:
        """Wanted calls that were calls of the right tool."""
        return Share.of(p.same_tool for each in self._calls for p in each.pairs if p.expected)

    @property
    def arguments(self) -> Share:
        """Right arguments in calls of the right tool; one that nobody wanted is a wrong one."""
        pairs = [p for each in self._calls for p in each.pairs if p.same_tool]
        return Share(sum(p.right for p in pairs), sum(p.total for p in pairs))

    @property
    def invalid(self) -> Share:
        """Answers that cannot be carried out as they are."""
        return Share.of(bool(each.invalid) for each in self._calls)

    @property
    def abstained(self) -> Share:
        """Of the requests that no tool fits: those that called none."""
        return Share.of(each.abstained for each in self._calls if not each.expected)

    @property
    def silent(self) -> Share:
        """Of the requests that a tool fits: those that called none."""
        return Share.of(each.abstained for each in self._calls if each.expected)

    @property
    def parallel(self) -> Share:
        """Of the requests for several calls at once: those with all of them right."""
        return Share.of(each.exact for each in self._calls if len(each.expected) > 1)

    @property
    def by_tool(self) -> dict[str, Share]:
        """Of the wanted calls of each tool: those that are exact."""
        pairs = [p for each in self._calls for p in each.pairs if p.expected]
        found = _grouped((p.expected.name, p.exact) for p in pairs if p.expected)
        return dict(sorted(found.items()))

    @property
    def by_phrasing(self) -> dict[str, Share]:
        """Right answers to each phrasing of a request, the worst first.

        Empty where each example is its own phrasing.
        """
        named = [each for each in self._answered if each.example.phrasing]
        found = _grouped((each.example.phrasing, each.exact) for each in named)
        if len(found) == len(named):
            return {}
        return dict(sorted(found.items(), key=lambda item: (item[1].share, -item[1].total)))

    @property
    def by_file(self) -> dict[str, Share]:
        """Right answers to the examples of each file."""
        return _grouped((file_of(each.example), each.exact) for each in self._answered)

    @property
    def tools_called(self) -> Counter[tuple[str, str]]:
        """How often each tool was called in the place of each: (wanted, called)."""
        return Counter(pair for each in self._calls for pair in each.mistaken)

    @property
    def confusions(self) -> Counter[tuple[str, str]]:
        """The same, without those that are right."""
        found = self.tools_called
        return Counter({pair: n for pair, n in found.items() if pair[0] != pair[1]})

    @property
    def score(self) -> float:
        """Mean score of the answers: the share of `exact`, unless a scorer gave parts of one."""
        found = [each.score for each in self._answered if each.score is not None]
        return sum(found) / len(found) if found else math.nan

    @property
    def perplexity(self) -> float | None:
        """Of the right answers' tokens; None where it was not measured."""
        tokens = sum(each.learnt for each in self.outcomes)
        if not tokens:
            return None
        mean = sum(each.loss for each in self.outcomes) / tokens
        return math.exp(mean) if mean < 700 else math.inf

    # What it cost.

    @property
    def tokens(self) -> float:
        """Generated tokens of an answer, mean."""
        return _mean([each.tokens for each in self._answered])

    @property
    def prompt_tokens(self) -> float:
        """Tokens of a prompt, mean."""
        return _mean([each.prompt_tokens for each in self._answered])

    @property
    def alone_seconds(self) -> float | None:
        """Median seconds of the answers that ran alone; None where none did."""
        found = [each.seconds for each in self._answered if each.alone]
        return median(found) if found else None

    # In one figure.

    @property
    def by_perplexity(self) -> bool:
        """Whether perplexity is what to judge by: text that is not a matter of right or wrong."""
        return self.perplexity is not None and self.scored == "text" and not self._calls

    @property
    def goal(self) -> float:
        """One number to compare by; larger is better."""
        return -(self.perplexity or math.inf) if self.by_perplexity else self.score

    @property
    def headline(self) -> str:
        """The figure that fits the task, in a phrase."""
        if self.by_perplexity:
            return f"perplexity {perplexity_text(self.perplexity)} on {len(self.outcomes)} texts"
        if self.score != self.exact.share:
            return f"a score of {self.score:.3f} in {self.exact.total} answers"
        exact = self.exact
        return (
            f"{exact.share:.1%} of {exact.total} answers right "
            f"({exact.low * 100:.1f}-{exact.high:.1%})"
        )

    def to_dict(self, *, outcomes: bool = True) -> dict[str, Any]:
        """For JSON; figures without anything to count are null."""
        said: dict[str, Any] = {
            "examples": len(self.outcomes),
            "headline": self.headline,
            "scored": self.scored,
            "score": None if math.isnan(self.score) else round(self.score, 6),
        }
        for name in SHARES:
            said[name] = getattr(self, name).to_dict()
        for name in ("by_tool", "by_phrasing", "by_file"):
            said[name] = {key: value.to_dict() for key, value in getattr(self, name).items()}
        said["confusions"] = [
            {"wanted": wanted, "called": called, "count": count}
            for (wanted, called), count in self.confusions.most_common()
        ]
        perplexity = self.perplexity
        said["perplexity"] = None if perplexity is None else round(perplexity, 6)
        said["tokens"] = round(self.tokens, 2)
        said["prompt_tokens"] = round(self.prompt_tokens, 2)
        said["alone_seconds"] = self.alone_seconds
        said["seconds"] = round(self.seconds, 4)
        if outcomes:
            said["outcomes"] = [each.to_dict() for each in self.outcomes]
        return said

    @property
    def _answered(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.score is not None]

    @property
    def _calls(self) -> list[Outcome]:
        return [each for each in self._answered if each.example.task == "calls"]


_LINE = re.compile(r"(:\d+|\[\d+\])$")
SHARES = ("exact", "names", "arguments", "invalid", "abstained", "silent", "parallel")


def perplexity_text(perplexity: float | None) -> str:
    """A perplexity for people: 3.21, or 4,709."""
    if perplexity is None:
        return ""
    return f"{perplexity:,.0f}" if perplexity >= 1000 else f"{perplexity:.3g}"


def file_of(example: Example) -> str:
    """The file that an example is from, as it was named."""
    return _LINE.sub("", example.place)


def _grouped(pairs: Iterable[tuple[str, bool]]) -> dict[str, Share]:
    groups: dict[str, list[bool]] = {}
    for name, right in pairs:
        groups.setdefault(name, []).append(right)
    return {name: Share.of(group) for name, group in groups.items()}


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0
