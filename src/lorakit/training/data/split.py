"""Dividing examples into those to train on and those to test with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lorakit.errors import ParameterError
from lorakit.training.data.example import Example
from lorakit.training.data.phrasing import calls_after, content_text
from lorakit.values import among, finite, shown

SplitBy = Literal["phrasing", "line"]
Key = Callable[[int, Example], str]  # what stays together has one
MANY = 3  # phrasings of a tool that are left to learn from where one of them is held out
BY: Mapping[SplitBy, Key] = {  # what stays together, by its name
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
    for kind, groups in sorted(_groups(examples, BY[by]).items()):
        rng.shuffle(groups)
        tested.update(_chosen(groups, share, kind))
    train = tuple(e for i, e in enumerate(examples) if i not in tested)
    return train, tuple(examples[i] for i in sorted(tested))


def held_apart(
    examples: Sequence[Example], count: int, seed: int = 0, *, wordings: bool = True
) -> Halves:
    """The examples without about `count` of them, and those: never more, and nothing on both sides.

    Whole phrasings where there are so many that a tool keeps MANY others; where a few phrasings
    hold everything, and without `wordings`, whole requests, so that values at least are unseen.
    """
    held: list[int] = []
    for key, left in ((_worded, MANY), (_asked, 1))[not wordings :]:
        held = _drawn(examples, count, key, left, random.Random(f"{seed} held out"))
        if 2 * len(held) >= count:
            break
    apart = set(held)
    rest = tuple(e for i, e in enumerate(examples) if i not in apart)
    return rest, tuple(examples[i] for i in sorted(apart))


def _drawn(
    examples: Sequence[Example], count: int, key: Key, left: int, rng: random.Random
) -> list[int]:
    """Positions of at most `count` examples in whole groups; each kind keeps `left` groups."""
    kinds = _groups(examples, key)
    spare = {kind: len(groups) - left for kind, groups in kinds.items()}
    drawn = [(kind, group) for kind, groups in sorted(kinds.items()) for group in groups]
    rng.shuffle(drawn)
    held: list[int] = []
    for kind, group in drawn:
        if spare[kind] > 0 and len(held) + len(group) <= count:
            spare[kind] -= 1
            held += group
    return held


def _worded(number: int, example: Example) -> str:
    return example.phrasing or _asked(number, example)


def _asked(number: int, example: Example) -> str:
    """The same for two examples that ask the same, however it is spaced or cased."""
    if not example.messages:
        return " ".join((example.prompt or example.text).casefold().split())
    asked = [(m["role"], content_text(m)) for m in example.messages[:-1]]
    return " ".join(repr(asked).casefold().split())


def kind_of(example: Example) -> str:
    """The functions that the last request is answered with, or the task of one without calls."""
    at = next((i for i, m in enumerate(example.messages) if m["role"] == "user"), 0)
    names = [call["name"] for call in calls_after(example.messages, at)]
    return " + ".join(dict.fromkeys(names)) or ("no call" if example.tools else example.task)


def _groups(examples: Sequence[Example], key_of: Key) -> dict[str, list[list[int]]]:
    """Positions of the examples that must stay together, by kind."""
    kinds: dict[str, dict[str, list[int]]] = {}
    homes: dict[str, str] = {}  # a phrasing belongs to the kind that has it first
    for i, example in enumerate(examples):
        key = key_of(i, example)
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
