"""Several answers to one prompt: what each is sampled by, and the result that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorakit.errors import ParameterError
from lorakit.runtime.generation import Completion
from lorakit.runtime.sampling import SamplingParams
from lorakit.values import shown, whole

SEEDS = 1 << 63  # seeds go round after this many


def several(params: SamplingParams, n: int) -> list[SamplingParams]:
    """The parameters of n answers: seed, seed + 1, ... where there is a seed.

    Raises ParameterError.
    """
    if not whole(n) or n < 1:
        raise ParameterError(f"n must be an integer of 1 or more, found {shown(n)}")
    if params.seed is None:
        return [params] * int(n)
    return [replace(params, seed=(params.seed + i) % SEEDS) for i in range(int(n))]


def together(answers: Sequence[Completion]) -> Completion:
    """The first answer, which holds the others."""
    first, *others = answers
    return replace(first, others=tuple(others)) if others else first
