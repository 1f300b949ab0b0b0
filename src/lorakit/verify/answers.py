"""Greedy answers: where two models part, and whether one of them repeats itself.

Logits tell how far a form of the weights is from another (parity.py); answers tell what a user sees
of it. A rounding that depends on what else is computed shows in requests made again: with nothing
in the prefix cache, on a hit, and in a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Literal

from lorakit.model.types import Request
from lorakit.runtime.generation import Completion
from lorakit.runtime.params import SamplingParams

if TYPE_CHECKING:
    from lorakit.model.model import Model

How = Literal["cold", "hit", "batch"]
Prompts = Sequence[Sequence[int]]
Answer = tuple[int, ...]

NEW = 32  # tokens of an answer
MOST_PROMPTS = 8  # that are answered
REPEATS = 16  # requests made again
BATCH = 8  # the most of them that run together
GREEDY = SamplingParams(max_tokens=NEW, temperature=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Requests made again in one way: how many, and how many of them got another answer."""

    how: How
    asked: int
    differ: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReport:
    """What the other side's greedy answers, of up to NEW tokens each, have in common with one's.

    differs_at: for each prompt that was answered the first token, from 0, that is not the same;
    None where all are. repeats: of the other side, against its own first answer.
    """

    differs_at: tuple[int | None, ...]
    repeats: tuple[Again, ...] = ()

    @property
    def same(self) -> int:
        """How many answers are the same to the end."""
        return sum(at is None for at in self.differs_at)

    @property
    def mean_differs_at(self) -> float | None:
        """The mean of `differs_at` over the answers that differ; None where none does."""
        found = [at for at in self.differs_at if at is not None]
        return sum(found) / len(found) if found else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "answers": len(self.differs_at),
            "same": self.same,
            "tokens": NEW,
            "differs_at": list(self.differs_at),
            "repeats": [asdict(again) for again in self.repeats],
        }


def compare_answers(
    one: Model, other: Model, prompts: Prompts, *, repeats: int = REPEATS
) -> AnswerReport:
    """Answer prompts greedily on both sides, each with its active adapters, and again on the other.

    prompts: token ids. The first MOST_PROMPTS of those that leave room for an answer are taken.
    repeats: how many of the other's requests are made again, a quarter of them cold, a quarter
    right after the same request, the rest in batches of up to BATCH.
    Raises what `Model.complete` raises.
    """
    room = min(side.capabilities.context for side in (one, other)) - NEW
    chosen = [list(ids) for ids in prompts if len(ids) <= room][:MOST_PROMPTS]
    theirs = [_tokens(cold(other, ids, turn)) for turn, ids in enumerate(chosen)]
    ours = [_tokens(cold(one, ids, turn)) for turn, ids in enumerate(chosen)]
    return AnswerReport(
        differs_at=tuple(map(first_difference, ours, theirs)),
        repeats=_count(again(other, chosen, theirs, repeats)) if chosen else (),
    )


def first_difference(one: Answer, other: Answer) -> int | None:
    """The first token at which answers differ, their ends included; None where none does."""
    for at, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if ours != theirs:
            return at
    return None if len(one) == len(other) else min(len(one), len(other))


def again(
    model: Model, prompts: Prompts, answers: Sequence[Answer], count: int
) -> Iterator[tuple[How, bool]]:
    """Make requests again: how each ran, and whether its answer is another one than before."""
    alone = count // 4
    for number in range(alone):
        at = number % len(prompts)
        for completion in (
            cold(model, prompts[at], number),
            model.complete(prompts[at], sampling=GREEDY),
        ):
            yield _how(completion), _tokens(completion) != answers[at]
    for batch in _batches(count - 2 * alone, min(BATCH, model.capabilities.max_batch)):
        chosen = [number % len(prompts) for number in batch]
        requests = [Request(prompt=prompts[at], sampling=GREEDY) for at in chosen]
        for at, completion in zip(chosen, model.batch(requests), strict=True):
            how: How = "batch" if len(batch) > 1 else _how(completion)
            yield how, _tokens(completion) != answers[at]


def cold(model: Model, ids: Sequence[int], turn: int = 0) -> Completion:
    """A greedy answer for which nothing in the prefix cache is of use.

    As many sequences as the engine holds take the places of those that it has kept, each with a
    first token of its own. `turn` alternates between two sets: what is kept displaces nothing.
    """
    limit = model.capabilities
    begin = turn % 2 * limit.max_sequences
    others = (token for token in range(limit.vocabulary - 1, -1, -1) if token not in ids[:1])
    model.batch(
        Request(prompt=[token], sampling=SamplingParams(max_tokens=1, temperature=0))
        for token in islice(others, begin, begin + limit.max_sequences)
    )
    return model.complete(ids, sampling=GREEDY)


def _batches(count: int, most: int) -> list[range]:
    """`count` numbers in runs of nearly one length, at most `most`."""
    runs = -(-count // most)
    ends = [count * run // runs for run in range(runs + 1)] if runs else [0]
    return [range(*pair) for pair in pairwise(ends)]


def _tokens(completion: Completion) -> Answer:
    return tuple(choice.token for choice in completion.tokens)


def _how(completion: Completion) -> How:
    return "hit" if completion.cached_tokens else "cold"


def _count(found: Iterable[tuple[How, bool]]) -> tuple[Again, ...]:
    asked, differ = Counter[How](), Counter[How]()
    for how, differs in found:
        asked[how] += 1
        differ[how] += differs
    return tuple(Again(how=how, asked=asked[how], differ=differ[how]) for how in asked)
