"""Several answers to one prompt: what each is sampled by, and the result that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lorakit.errors import ParameterError
from lorakit.runtime.generation import Completion
from lorakit.runtime.params import SamplingParams
from lorakit.values import shown, whole

SEEDS = 1 << 63  # seeds go round after this many


def several(params: SamplingParams, n: int) -> Iterator[SamplingParams]:
    """The parameters of n answers, one by one: seed, seed + 1, ... where there is a seed.

    Raises ParameterError, at once.
    """
    if not whole(n) or n < 1:
        raise ParameterError(f"n must be an integer of 1 or more, found {shown(n)}")
    return _numbered(params, int(n))


def _numbered(params: SamplingParams, n: int) -> Iterator[SamplingParams]:
    number = 0
    while number < n:  # which may be more than a range can count
        seed = None if params.seed is None else (params.seed + number) % SEEDS
        yield replace(params, seed=seed)
        number += 1


def together(answers: Sequence[Completion]) -> Completion:
    """The first answer, which holds the others."""
    first, *others = answers
    return replace(first, others=tuple(others)) if others else first
