"""What an evaluation says, in plain language: whether it worked, and what goes wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import function_of
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.outcome import INVALID, NO_CALL
from lorakit.training.evaluate.statistics import Paired, Share

FEW = 30  # examples below which an interval is so wide that it must be said
SHOWN = 3  # confusions, phrasings
CHANCE = 0.05  # a difference that is as likely between equals is none


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
    measured: Mapping[str, Evaluation | None],
    phrasings: Collection[str] = (),
    leaked: int = 0,
) -> tuple[str, ...]:
    """Sentences, the most important one first.

    measured: as a TrainResult holds it. phrasings: those of the training examples, to tell apart
    what is new in a request. leaked: how many of the measured examples training has seen too.
    """
    after, before = measured.get("after"), measured.get("before")
    if after is None or not after.outcomes:
        return ("Nothing was held out to measure it on: nobody knows yet how good it is.",)
    found = [_first(after, before, "" if leaked else "unseen ")]
    if leaked:
        found.append(
            f"{leaked} of the {len(after.outcomes)} are in the training data too: what it makes of "
            "those says nothing."
        )
    found += _difference(after, before)
    if headline(after).name == "exact match":
        found += [*_news(after, phrasings, leaked), *_mistakes(after), *_abstention(after)]
        found += _phrasings(after)
    for name, kept in measured.items():
        if name.startswith("kept"):
            found += _kept(kept, name.removeprefix("kept"))
    found += _replayed(measured.get("replay"), measured.get("replay_before"))
    return tuple(sentence[0].upper() + sentence[1:] for sentence in found)


def _first(after: Evaluation, before: Evaluation | None, unseen: str) -> str:
    main, requests = headline(after), _requests(after.exact.total, unseen)
    base = "" if before is None else f", the base {_said(before)}"
    if main.name == "exact match":
        return f"The adapter calls right in {_said(after)} of {requests}{base}."
    if main.name == "perplexity":
        one = f"Perplexity on {len(after.outcomes)} {unseen}texts: {main.said}"
        return one + ("" if before is None else f", with the base {headline(before).said}") + "."
    if main.name == "text match":
        what = "answers word for word as wanted in"
        return f"The adapter {what} {_said(after)} of {requests}{base}."
    return f"The adapter scores {main.value:.2f} on {requests}" + (
        "." if before is None else f", the base {before.score:.2f}."
    )


def _requests(count: int, kind: str = "") -> str:
    return f"{count} {kind}request{'s' * (count != 1)}"


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
    sure = pair.p < CHANCE
    if pair.better > pair.worse:
        if not sure:
            yield "The gain over the base may be chance: it takes more examples to tell."
    elif headline(after).value != 1.0:
        what = "worse than" if sure else "no better than"
        yield f"That is {what} the base; more examples, or more steps, may help."


def _scores(evaluation: Evaluation) -> list[float]:
    if evaluation.by_perplexity:
        return [-each.loss / max(each.learnt, 1) for each in evaluation.outcomes]
    return [each.score or 0.0 for each in evaluation.outcomes]


def _news(after: Evaluation, phrasings: Collection[str], leaked: int) -> Iterator[str]:
    """How it does where the wording is known and where it is new, if there are both."""
    answered = [each for each in after.outcomes if each.score is not None and phrasings]
    known = Share.of(each.exact for each in answered if each.example.phrasing in phrasings)
    new = Share.of(each.exact for each in answered if each.example.phrasing not in phrasings)
    if known.total and not new.total and leaked < known.total:
        yield (
            "All of them are worded as in training, with other values: how it does with new "
            "wordings nobody knows."
        )
    if known.total and new.total:
        yield (
            f"Where the wording is as in training: {percent(known)} of {known.total}; "
            f"where it is new: {percent(new)} of {new.total}."
        )


def _mistakes(after: Evaluation) -> Iterator[str]:
    """Which tools are confused, and what else is wrong with the wrong answers."""
    wanted = after.by_tool
    found = sorted(after.confusions.items(), key=lambda item: (-item[1], item[0]))
    known = {*wanted, *(_name(tool) for each in after.outcomes for tool in each.example.tools)}
    mixed = [(pair, n) for pair, n in found if {*pair} <= known]
    if mixed:
        names = [
            f"{called} is called for {right} ({count} of {wanted[right].total})"
            for (right, called), count in mixed[:SHOWN]
        ]
        count = len({name for pair, _ in mixed for name in pair})
        yield f"{_number(count)} tools are confused: {'; '.join(names)}."
    invented = [(called, n) for (_, called), n in found if called not in {*known, NO_CALL, INVALID}]
    if invented:
        count, name = sum(n for _, n in invented), invented[0][0]
        what = "answer calls a tool that does" if count == 1 else "answers call tools that do"
        yield f"{count} {what} not exist, such as {name}."
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


def _name(tool: Mapping[str, Any]) -> str:
    return str(function_of(tool).get("name"))


def _of_wrong(count: int, wrong: int) -> str:
    if count == wrong:
        return "The one wrong answer calls" if wrong == 1 else f"All {wrong} wrong answers call"
    return f"{count} of the {wrong} wrong answers call{'s' * (count == 1)}"


def _abstention(after: Evaluation) -> Iterator[str]:
    share = after.abstained
    if share.total:
        yield f"It calls nothing in {percent(share)} of {_requests(share.total)} that no tool fits."


def _phrasings(after: Evaluation) -> Iterator[str]:
    """The phrasings that fail most, where some do clearly worse than the whole."""
    whole = after.exact.share
    bad = [
        (name, share)
        for name, share in after.by_phrasing.items()
        if share.total > 1 and share.high < whole
    ]
    if bad:
        names = [f"“{name}” ({share.count} of {share.total})" for name, share in bad[:SHOWN]]
        yield f"It does worst on requests such as {', '.join(names)}."


def _kept(kept: Evaluation | None, beside: str) -> Iterator[str]:
    """beside: " beside NAME" of the adapter that both are used together with, or nothing."""
    if kept is None or not kept.outcomes:
        return
    if kept.exact.total:
        what = f"{percent(kept.exact)} of {_requests(kept.exact.total, 'other ')}"
        yield f"It answers {what} as the base does{beside}."
    else:
        said = f"perplexity {headline(kept).said}"
        count = len(kept.outcomes)
        yield f"The base's own answers{beside} to {count} other requests have {said} to it."


def _replayed(after: Evaluation | None, before: Evaluation | None) -> Iterator[str]:
    if after is not None and after.exact.total:
        base = "" if before is None else f", the base {percent(before.exact)}"
        yield f"Of what it had to keep it does {percent(after.exact)} right{base}."


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
