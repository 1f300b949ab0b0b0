"""What an evaluation says, in plain language: whether it worked, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.outcome import INVALID, NO_CALL
from lorakit.training.evaluate.statistics import Paired, Share

FEW = 30  # examples below which an interval is so wide that it must be said
SHOWN = 3  # confusions, phrasings
CHANCE = 0.05  # a difference that is as likely between equals is none
GOOD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The figure that fits a task. name: such as "exact match". said, short: the value, for people.

    share: whether it goes from 0 to 1 and more is better; else it is a perplexity, where less is.
    """

    name: str
    value: float
    share: bool

    @property
    def said(self) -> str:
        return f"{self.value:.1%}" if self.share else f"{self.value:.3g}"


def headline(evaluation: Evaluation) -> Headline:
    """The one figure to show of an evaluation."""
    if evaluation.by_perplexity:
        return Headline(name="perplexity", value=evaluation.perplexity or 0.0, share=False)
    if any(outcome.example.task == "calls" for outcome in evaluation.outcomes):
        return Headline(name="exact match", value=evaluation.score, share=True)
    name = "text match" if evaluation.scored == "text" else "score"
    return Headline(name=name, value=evaluation.score, share=True)


def verdict(
    after: Evaluation | None, before: Evaluation | None = None, kept: Evaluation | None = None
) -> tuple[str, ...]:
    """Sentences, the most important one first.

    after: with the adapter; before: the same examples without it. kept: what the base could do
    before, with the adapter. Examples are those that were not trained on.
    """
    if after is None or not after.outcomes:
        return ("Nothing was held out to measure it on: nobody knows yet how good it is.",)
    found = [_first(after, before)]
    found += _difference(after, before)
    if headline(after).name == "exact match":
        found += [*_mistakes(after), *_abstention(after), *_phrasings(after)]
    found += _kept(kept)
    return tuple(found)


def _first(after: Evaluation, before: Evaluation | None) -> str:
    main = headline(after)
    base = "" if before is None else f", the base {_said(before)}"
    if main.name == "exact match":
        return f"The adapter calls right in {_said(after)} of {_requests(after)}{base}."
    if main.name == "perplexity":
        one = f"Perplexity on {len(after.outcomes)} unseen texts: {main.said}"
        return one + ("" if before is None else f", with the base {headline(before).said}") + "."
    if main.name == "text match":
        what = "answers word for word as wanted in"
        return f"The adapter {what} {_said(after)} of {_requests(after)}{base}."
    return f"The adapter scores {main.value:.2f} on {_requests(after)}" + (
        "." if before is None else f", the base {before.score:.2f}."
    )


def _requests(evaluation: Evaluation) -> str:
    count = evaluation.exact.total
    return f"{count} unseen request{'s' * (count != 1)}"


def _said(evaluation: Evaluation) -> str:
    return percent(evaluation.exact)


def _difference(after: Evaluation, before: Evaluation | None) -> Iterator[str]:
    """What the numbers are worth."""
    if not after.by_perplexity and after.exact.total < FEW:
        low, high = after.exact.low, after.exact.high
        yield f"So few say little: the true share may be anything from {low:.0%} to {high:.0%}."
    if before is None or len(before.outcomes) != len(after.outcomes):
        return
    pair = Paired.of(_scores(before), _scores(after))
    if pair.better > pair.worse and pair.p < CHANCE:
        return
    if after.exact.count == after.exact.total and not after.by_perplexity:
        return
    what = "worse than" if pair.worse > pair.better and pair.p < CHANCE else "no better than"
    hint = "more examples, or more steps, may help"
    yield f"That is {what} the base, as far as these can tell; {hint}."


def _scores(evaluation: Evaluation) -> list[float]:
    if evaluation.by_perplexity:
        return [-each.loss / max(each.learnt, 1) for each in evaluation.outcomes]
    return [each.score or 0.0 for each in evaluation.outcomes]


def _mistakes(after: Evaluation) -> Iterator[str]:
    """Which tools are confused, and what else is wrong with the wrong answers."""
    tools = {pair: n for pair, n in after.confusions.items() if not {NO_CALL, INVALID} & {*pair}}
    worst = sorted(tools.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    wanted = after.by_tool
    if worst:
        names = [
            f"{called} is called for {right} ({count} of {wanted[right].total})"
            for (right, called), count in worst
        ]
        count = len({name for pair in tools for name in pair})
        yield f"{_number(count)} tools are confused: {'; '.join(names)}."
    wrong = [each for each in after.outcomes if each.score is not None and not each.exact]
    values = sum(
        bool(each.pairs) and each.names_right and not each.arguments_right for each in wrong
    )
    if values:
        yield f"{_of_wrong(values, len(wrong))} the right tool with a wrong argument."
    if after.invalid.count:
        yield f"{percent(after.invalid)} of the answers are no valid call."
    if after.silent.count:
        yield f"{percent(after.silent)} of the requests that a tool fits call none."


def _of_wrong(count: int, wrong: int) -> str:
    if count == wrong:
        return "The one wrong answer calls" if wrong == 1 else f"All {wrong} wrong answers call"
    return f"{count} of the {wrong} wrong answers call{'s' * (count == 1)}"


def _abstention(after: Evaluation) -> Iterator[str]:
    share = after.abstained
    if share.total:
        yield f"It calls nothing in {percent(share)} of {share.total} requests that no tool fits."


def _phrasings(after: Evaluation) -> Iterator[str]:
    """The phrasings that fail most, where some do clearly worse than the whole."""
    whole = after.exact.share
    bad = [
        (name, share)
        for name, share in after.by_phrasing.items()
        if share.total > 1 and share.share < GOOD and share.high < max(whole, 0.5)
    ]
    if bad:
        names = [f"“{name}” ({share.count} of {share.total})" for name, share in bad[:SHOWN]]
        yield f"It does worst on requests such as {', '.join(names)}."


def _kept(kept: Evaluation | None) -> Iterator[str]:
    if kept is not None and kept.exact.total:
        share = kept.exact
        yield f"It answers {percent(share)} of {share.total} other requests as the base did."


def percent(share: Share) -> str:
    """A share for people; 100% is all, and 0% is none."""
    if not share.total:
        return "none"
    value = round(share.share * 100)
    if value == 100 and share.count < share.total:
        return "over 99%"
    return "under 1%" if value == 0 and share.count else f"{value}%"


def _number(count: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return words[count] if count < len(words) else str(count)
