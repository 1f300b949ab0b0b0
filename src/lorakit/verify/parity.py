"""The comparison: two functions from token ids to logits, on some prompts.

It computes in float64 and knows nothing of models, adapters or files. A comparison must be able to
fail: with `plain` (the base without adapters) the report also says how much the adapters change,
and warns where agreement would prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lorakit.errors import EngineError, ParameterError
from lorakit.values import finite, shown
from lorakit.verify.forms import CostLimits
from lorakit.verify.verdict import F64, NOTHING, PLAIN, Evidence, Findings, Stored, evidence, judge

if TYPE_CHECKING:
    from lorakit.verify.answers import AnswerReport

TOLERANCE = 2e-4  # largest difference of two float32 computations of a small model
LogitsOf = Callable[[Sequence[int]], npt.NDArray[np.float32]]  # ids -> [tokens, vocabulary]


@dataclass(frozen=True, slots=True)
class Rounding:
    """Judge by what rounding does, not by a tolerance.

    stored: the coarsest dtype that the sides' numbers were stored in. steps: side one with one
    adapter's scale wrong by a percent, by what that is; `scale_steps` makes them of a model.
    weights: of a merged model, which settle the scales; see weights.py.
    """

    stored: Stored = "float32"
    steps: Mapping[str, LogitsOf] = field(default_factory=dict)
    weights: Sequence[Evidence] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptParity:
    """Two sides on one prompt. Numbers are NaN where either side holds NaN or infinity.

    kl: KL(one || other) and kl_reverse: KL(other || one), of the softmaxes, in nats, each the mean
    over positions; top1: share of positions with the same best token; first_difference: the first
    position (from 0) whose best token differs, None where all agree; effect: the largest change of
    `one` against the plain base, None where no base was given. perplexity, other_perplexity: of the
    prompt's tokens but the first, None where it has only one.
    """

    name: str
    tokens: int
    max_difference: float
    mean_difference: float
    kl: float
    kl_reverse: float
    top1: float
    first_difference: int | None
    non_finite: int  # values that are NaN or infinite, of both sides
    effect: float | None = None
    perplexity: float | None = None
    other_perplexity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """All prompts, and their sum: the largest maximum, means weighted by tokens."""

    one: str
    other: str
    tolerance: float | None  # None: judged by limits, else by rounding
    prompts: tuple[PromptParity, ...]
    stored: Stored | None = None  # the dtype whose rounding was judged by
    findings: Findings = NOTHING  # why the differences are not that rounding
    warnings: tuple[str, ...] = ()
    limits: CostLimits | None = None
    answers: AnswerReport | None = None  # where both sides were asked for some

    @property
    def agrees(self) -> bool:
        """Whether no value is NaN or infinite, no difference is above the tolerance, nothing is
        beyond the limits, and nothing speaks against rounding where that is judged by."""
        if any(p.non_finite for p in self.prompts) or self.findings != NOTHING:
            return False
        if self.limits is not None and not self.limits.hold(self.total.kl, self.total.top1):
            return False
        limit = math.inf if self.tolerance is None else self.tolerance
        return all(p.max_difference <= limit for p in self.prompts)

    @property
    def verdict(self) -> str:
        """In a sentence: agrees, differs or cannot tell, by how much, and why; or what it costs."""
        total = self.total
        if total.non_finite:
            return f"differs: {total.non_finite} logits are NaN or infinite"
        if self.limits is not None:
            return self.limits.verdict(total.kl, total.top1)
        if self.tolerance is None:
            effect = "" if total.effect is None else f"effect {total.effect:.2g}, "
            sizes = f"({effect}difference {total.max_difference:.2g})"
            why = self.findings.against or self.findings.unclear
            if not why:
                return f"agrees within {self.stored}'s rounding {sizes}"
            more = f", and {len(why) - 1} more" * (len(why) > 1)
            verdict = "differs" if self.findings.against else "cannot tell"
            return f"{verdict} {sizes}: {why[0]}{more}"
        share = f", {total.max_difference / total.effect:.2g} of the effect" if total.effect else ""
        verdict, sign = ("agrees", "within") if self.agrees else ("differs", "above")
        return (
            f"{verdict}: the largest difference is {total.max_difference:.3g}{share}, "
            f"{sign} the tolerance of {self.tolerance:g}"
        )

    @property
    def total(self) -> PromptParity:
        """All prompts as one; first_difference is that of the first prompt that has one."""
        found, tokens = self.prompts, sum(p.tokens for p in self.prompts)

        def mean(name: str) -> float:
            return float(sum(getattr(p, name) * p.tokens for p in found) / tokens)

        def perplexity(name: str) -> float | None:
            known = [(v, p.tokens - 1) for p in found if (v := getattr(p, name)) is not None]
            count = sum(n for _, n in known)
            return _exp(sum(n * np.log(v) for v, n in known) / count) if count else None

        effects = [p.effect for p in found if p.effect is not None]
        differ = [p.first_difference for p in found if p.first_difference is not None]
        return PromptParity(
            name="total",
            tokens=tokens,
            max_difference=_largest([p.max_difference for p in found]),
            mean_difference=mean("mean_difference"),
            kl=mean("kl"),
            kl_reverse=mean("kl_reverse"),
            top1=mean("top1"),
            first_difference=differ[0] if differ else None,
            non_finite=sum(p.non_finite for p in found),
            effect=_largest(effects) if effects else None,
            perplexity=perplexity("perplexity"),
            other_perplexity=perplexity("other_perplexity"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `json.dumps(..., allow_nan=False)` takes; NaN becomes "nan"."""
        return {
            "agrees": self.agrees,
            "verdict": self.verdict,
            "one": self.one,
            "other": self.other,
            "tolerance": self.tolerance,
            "stored": self.stored,
            "against": list(self.findings.against),
            "unclear": list(self.findings.unclear),
            "limits": None if self.limits is None else self.limits.to_dict(),
            "answers": None if self.answers is None else self.answers.to_dict(),
            "total": _plain(self.total),
            "prompts": [_plain(prompt) for prompt in self.prompts],
            "warnings": list(self.warnings),
        }


def verify(
    one: LogitsOf,
    other: LogitsOf,
    prompts: Mapping[str, Sequence[int]],
    *,
    tolerance: float | None = None,
    rounding: Rounding | None = None,
    limits: CostLimits | None = None,
    plain: LogitsOf | None = None,
    names: tuple[str, str] = ("one", "other"),
    notes: Sequence[str] = (),
) -> ParityReport:
    """Compare the logits of two sides on every position of some prompts.

    prompts: token ids by a name to show. rounding: agree within what it explains. limits: pass by
    the cost in KL and top-1 instead. tolerance: agree up to this largest difference instead; with
    none of them, up to TOLERANCE. plain: `one` without its adapters, to measure what they change.
    notes: go into the report's warnings as they are.
    Raises ParameterError where there is no prompt, the tolerance is negative, or there are limits
    beside it; EngineError where
    the sides have other vocabularies or a side gives logits of another length than its prompt;
    and whatever the sides raise.
    """
    if not prompts:
        raise ParameterError("there is no prompt to compare on")
    if tolerance is not None and limits is not None:
        raise ParameterError("a comparison is judged by a tolerance or by limits, not by both")
    if tolerance is None and rounding is None and limits is None:
        tolerance = TOLERANCE
    if tolerance is not None and not (finite(tolerance) and tolerance >= 0):
        said = shown(tolerance)
        raise ParameterError(f"the tolerance must be finite and 0 or more, found {said}")
    judged = rounding if tolerance is None and limits is None else None
    found, seen = [], []
    for name, ids in prompts.items():
        if not len(ids):
            raise ParameterError(f"the prompt {name!r} holds no tokens")
        a, b = (_logits(f, ids, who) for f, who in zip((one, other), names, strict=True))
        _require_one_vocabulary(a, b, names)
        base = None if plain is None else _logits(plain, ids, f"{names[0]} without adapters")
        found.append(compare(name, a, b, base, ids))
        if judged is not None and not found[-1].non_finite:
            seen.append(_evidence(name, ids, (a, b, base), judged))
    report = ParityReport(
        one=names[0],
        other=names[1],
        tolerance=None if tolerance is None else float(tolerance),
        prompts=tuple(found),
        stored=None if judged is None else judged.stored,
        findings=NOTHING if judged is None else judge(seen, judged.stored, judged.weights),
        limits=limits,
    )
    return replace(report, warnings=(*notes, *_doubts(report)))


def _evidence(
    name: str, ids: Sequence[int], sides: tuple[F64, F64, F64 | None], by: Rounding
) -> Evidence:
    one, other, plain = sides
    changed = {each: _logits(side, ids, each) for each, side in by.steps.items()}
    return evidence(name, one, other, changed | ({} if plain is None else {PLAIN: plain}))


def compare(
    name: str, one: F64, other: F64, plain: F64 | None = None, ids: Sequence[int] = ()
) -> PromptParity:
    """Two arrays of logits [tokens, vocabulary] in numbers; ids: the tokens, for perplexities."""
    bad = int(np.sum(~np.isfinite(one)) + np.sum(~np.isfinite(other)))
    best, second = _best(one), _best(other)
    differ = np.flatnonzero(best != second)
    gap = np.abs(one - other) if not bad else np.full((1, 1), np.nan)
    return PromptParity(
        name=name,
        tokens=len(one),
        max_difference=float(gap.max()),
        mean_difference=float(gap.mean()),
        kl=divergence(one, other) if not bad else math.nan,
        kl_reverse=divergence(other, one) if not bad else math.nan,
        top1=float(np.mean(best == second)),
        first_difference=int(differ[0]) if differ.size else None,
        non_finite=bad,
        effect=None if plain is None else _effect(one, plain),
        perplexity=perplexity(one, ids),
        other_perplexity=perplexity(other, ids),
    )


def divergence(one: F64, other: F64) -> float:
    """KL(softmax(one) || softmax(other)) in nats, the mean over positions; both finite."""
    p, q = _log_softmax(one), _log_softmax(other)
    return max(0.0, float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))))


def perplexity(logits: F64, ids: Sequence[int]) -> float | None:
    """Of all tokens but the first, by the logits before each.

    None where there is no such token, or one that the logits do not have.
    """
    if len(ids) < 2 or not 0 <= min(ids) <= max(ids) < logits.shape[1]:
        return None
    if not np.isfinite(logits).all():
        return math.nan
    following = np.asarray(ids[1:], np.int64)
    return _exp(-_log_softmax(logits[:-1])[np.arange(len(following)), following].mean())


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def _log_softmax(logits: F64) -> F64:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    lse: F64 = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: F64 = shifted - lse
    return result


def _best(logits: F64) -> npt.NDArray[np.int64]:
    """The best token of each position, -1 where there is a NaN."""
    return np.where(np.isnan(logits).any(axis=-1), -1, np.argmax(logits, axis=-1))


def _effect(one: F64, plain: F64) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.abs(one - plain).max())


def _logits(side: LogitsOf, ids: Sequence[int], name: str) -> F64:
    found = np.asarray(side(ids))
    if found.ndim != 2 or len(found) != len(ids):
        raise EngineError(
            f"{name} gave logits {list(found.shape)} for a prompt of {len(ids)} tokens",
            hint="logits must be [tokens, vocabulary], for every position",
        )
    return found.astype(np.float64)


def _require_one_vocabulary(one: F64, other: F64, names: tuple[str, str]) -> None:
    if one.shape[1] != other.shape[1]:
        raise EngineError(
            f"the vocabularies differ: {names[0]} has {one.shape[1]} tokens, "
            f"{names[1]} has {other.shape[1]}",
            hint="one of them was extended or padded, or they are different models; logits can be "
            "compared only over one vocabulary",
        )


def _doubts(report: ParityReport) -> list[str]:
    """Why this report may prove less than it seems to."""
    effect = report.total.effect
    if effect is None or not math.isfinite(effect):
        return []
    if effect == 0:
        return [
            f"{report.one} has no effect: its logits are those of the plain base, to the last bit; "
            "agreement proves nothing about the adapter"
        ]
    if report.tolerance is not None and effect <= report.tolerance:
        return [
            f"the adapters change the logits by {effect:.2g} at most, within the tolerance of "
            f"{report.tolerance:g}; agreement proves little about them"
        ]
    return []


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def _plain(prompt: PromptParity) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(prompt).items()
    }
