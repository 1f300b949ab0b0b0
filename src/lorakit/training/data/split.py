"""Dividing examples into those to train on and those to test with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lorakit.errors import ParameterError
from lorakit.training.data.example import Example
from lorakit.training.data.phrasing import calls_after
from lorakit.values import among, finite, shown

SplitBy = Literal["phrasing", "line"]
BY: Mapping[SplitBy, Callable[[int, Example], str]] = {  # what stays together, by its name
    "phrasing": lambda number, example: example.phrasing or f"line {number}",
    "line": lambda number, example: f"line {number}",
}
Halves = tuple[tuple[Example, ...], tuple[Example, ...]]


def split_examples(
    examples: Sequence[Example], share: float = 0.1, *, by: SplitBy = "phrasing", seed: int = 0
) -> Halves:
    """About `share` of each tool's examples to test with, and the rest to train on.

    by: "phrasing" keeps all examples of a phrasing on one side, so that a test shows what the
    model makes of wordings that it never saw; "line" does not, and shows less. Every tool with two
    phrasings (or lines) is on both sides. Raises ParameterError.
    """
    if not finite(share) or not 0 < share < 1:
        raise ParameterError(f"share must be between 0 and 1, not {share!r}")
    if not among(by, BY):
        raise ParameterError(f"by must be one of {', '.join(BY)}, found {shown(by)}")
    rng = random.Random(seed)
    tested: set[int] = set()
    for kind, groups in sorted(_groups(examples, by).items()):
        rng.shuffle(groups)
        tested.update(_chosen(groups, share, kind))
    train = tuple(e for i, e in enumerate(examples) if i not in tested)
    return train, tuple(examples[i] for i in sorted(tested))


def kind_of(example: Example) -> str:
    """The functions that the last request is answered with, or the task of one without calls."""
    at = next((i for i, m in enumerate(example.messages) if m["role"] == "user"), 0)
    names = [call["name"] for call in calls_after(example.messages, at)]
    return " + ".join(dict.fromkeys(names)) or ("no call" if example.tools else example.task)


def _groups(examples: Sequence[Example], by: SplitBy) -> dict[str, list[list[int]]]:
    """Positions of the examples that must stay together, by kind."""
    kinds: dict[str, dict[str, list[int]]] = {}
    homes: dict[str, str] = {}  # a phrasing belongs to the kind that has it first
    for i, example in enumerate(examples):
        key = BY[by](i, example)
        kind = homes.setdefault(key, kind_of(example))
        kinds.setdefault(kind, {}).setdefault(key, []).append(i)
    return {kind: list(groups.values()) for kind, groups in kinds.items()}


def _chosen(groups: Sequence[Sequence[int]], share: float, kind: str) -> list[int]:
    """Whole groups, the first ones, until the share is reached; never all of them."""
    wanted = share * sum(map(len, groups))
    chosen: list[int] = []
    for group in groups[:-1]:
        if chosen and len(chosen) + len(group) / 2 > wanted:
            break
        chosen += group
    return chosen
