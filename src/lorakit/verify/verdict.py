"""Is a difference rounding, or is something wrong?

Rounding must pass, an adapter at 1.01 of its scale must not, and the second may be the smaller of
the two. So size alone decides nothing. A difference counts as rounding if it is no larger than
rounding of the stored dtype makes it in this model, and does not point where a wrong scale points:
side one is computed again with every adapter's scale a percent up and a percent down, and the
difference is projected on each of these changes. A wrong scale gives 1 there; rounding, which
points anywhere, nearly 0. Where rounding is too large to tell, that is said, and does not pass.

It knows arrays of logits, no models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Stored = Literal["float32", "float16", "bfloat16"]

# What storing a number moves it by, relatively. float32 numbers are stored as they are: it is the
# order of its sums that differs, by up to 64 roundings.
UNITS: dict[Stored, float] = {"float32": 2.0**-18, "float16": 2.0**-11, "bfloat16": 2.0**-8}
STEP = 0.01  # the error of a scale that must be found
ROUNDINGS = 12  # measured: up to 7 of a model's logits, and up to 5 of what its adapters move
MOST = 0.5  # the largest share of a step that may be in a difference
LARGEST = 5.0  # steps; where rounding makes more, its direction is no longer told apart
MAINLY = 0.7  # cosine from which a larger difference still points somewhere
ERRORS = 2.0  # standard errors that the share must be sure by
PLAIN = "the base without adapters"


@dataclass(frozen=True, slots=True)
class Change:
    """A changed side one against side one as it is, and what of it is in the difference.

    Sums over the vocabulary by position: along = <difference, change>, square = <change, change>.
    """

    along: F64
    square: F64


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict needs to know of one prompt."""

    name: str
    difference: float  # root mean squares over positions and vocabulary
    logits: float
    width: int  # the vocabulary
    changes: Mapping[str, Change] = field(default_factory=dict)

    @property
    def step(self) -> float:
        """The root mean square of what a step of a scale changes, of the largest."""
        steps = [change for name, change in self.changes.items() if name != PLAIN]
        sizes = [change.square.mean() / self.width for change in steps]
        return math.sqrt(max(sizes, default=0.0))

    def allowed(self, stored: Stored) -> float:
        """What rounding makes at most: of the logits, and of what moves with the adapters."""
        return ROUNDINGS * UNITS[stored] * max(self.logits, self.step / STEP)


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a change is in the difference of all prompts.

    value: 0 for none, 1 for all of it. error: its standard error, over positions. steps: the
    difference's size, in that of the change; never less than `value`.
    """

    value: float
    error: float
    steps: float

    @property
    def is_none(self) -> bool:
        sure = abs(self.value) + ERRORS * self.error <= MOST
        return self.steps <= MOST or (sure and self.steps <= LARGEST)

    @property
    def is_there(self) -> bool:
        along = self.steps <= LARGEST or self.value >= MAINLY * self.steps
        return along and self.value - ERRORS * self.error > MOST


@dataclass(frozen=True, slots=True)
class Findings:
    """Why differences are not rounding, and what rounding may hide; both empty where they agree."""

    against: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()


NOTHING = Findings()


def evidence(name: str, one: F64, other: F64, changed: Mapping[str, F64]) -> Evidence:
    """Of logits [tokens, vocabulary], all finite.

    changed: side one with a scale changed by STEP, by what that is; as PLAIN without its adapters.
    """
    difference = other - one
    changes = {}
    for each, logits in changed.items():
        change = logits - one
        changes[each] = Change((difference * change).sum(axis=1), (change * change).sum(axis=1))
    return Evidence(name, _rms(difference), _rms(one), one.shape[1], changes)


def judge(
    prompts: Sequence[Evidence], stored: Stored, weights: Sequence[Evidence] = ()
) -> Findings:
    """Whether the differences are the rounding of `stored`, and if not, why.

    weights: the same of a merged model's weights: they settle a scale that rounding hides in the
    logits, and what speaks against either counts.
    """
    against = [
        f"{each.name}: the difference (root mean square {each.difference:.2g}) is above what "
        f"rounding to {stored} explains ({each.allowed(stored):.2g})"
        for each in prompts
        if not each.difference <= each.allowed(stored)
    ]
    unclear = []
    for name in prompts[0].changes if prompts else ():
        share = share_of(prompts, name)
        settled = share_of(weights, name) if weights and name in weights[0].changes else None
        there = next((each for each in (share, settled) if each and each.is_there), None)
        if there:
            against.append(
                f"the difference points where {name} does ({there.value:.2f} of that change)"
            )
        elif share is not None and not (share.is_none or (settled and settled.is_none)):
            unclear.append(
                f"the difference is {share.steps:.2g} times the size of what {name} changes, and "
                "may hide that: more and longer prompts, or a model stored in float32, can tell"
            )
        elif settled is not None and not settled.is_none:
            unclear.append(f"the weights do not say whether they hold {name}")
    return Findings(tuple(against), tuple(unclear))


def share_of(prompts: Sequence[Evidence], name: str) -> Share | None:
    """The share of a change in the difference; None where it changes nothing."""
    along = np.concatenate([each.changes[name].along for each in prompts])
    square = np.concatenate([each.changes[name].square for each in prompts])
    total = float(square.sum())
    if total == 0:
        return None
    value = float(along.sum()) / total
    count = int(np.count_nonzero(square))
    spread = float(np.sqrt(np.square(along - value * square).sum())) / total
    error = spread * math.sqrt(count / (count - 1)) if count > 1 else math.inf
    size = sum(each.difference**2 * len(each.changes[name].along) * each.width for each in prompts)
    return Share(value, error, math.sqrt(size / total))


def _rms(values: F64) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
