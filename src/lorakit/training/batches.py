"""What each step learns from: a function of the seed and the step, and of nothing else.

So a run that is resumed at a step needs no state of a generator to go on as it would have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from lorakit.errors import FormatError
from lorakit.training.data import Example
from lorakit.training.render import Rendered, Renderer
from lorakit.training.settings import TrainSettings

PASS_TOKENS = 4096  # of a pass, so that memory has a bound whatever the batch holds


class Augments(Protocol):
    """Gives an example other values and another wording."""

    def draw(self, rng: random.Random, example: Example) -> Example: ...


class Batches:
    """Draws the rows of each step.

    examples: to learn from. replayed: rows of answers that the base must not lose, for each
    companion ("" = none). augmenter: None leaves examples as they are.
    """

    def __init__(
        self,
        settings: TrainSettings,
        renderer: Renderer,
        examples: Sequence[Example],
        replayed: Mapping[str, Sequence[Rendered]],
        augmenter: Augments | None,
    ) -> None:
        self._settings = settings
        self._renderer = renderer
        self._examples = examples
        self._replayed = replayed
        self._augmenter = augmenter
        self._companions = tuple(replayed)
        batch = settings.schedule.batch or 1
        share = settings.mixture.replay_share or 0.0
        self._others = min(round(batch * share), batch - 1) if any(replayed.values()) else 0
        self._own = batch - self._others

    def companion(self, step: int) -> str:
        """Beside which adapter a step trains, by turns; "" is the base alone."""
        return self._companions[step % len(self._companions)]

    def rows(self, step: int) -> list[Rendered]:
        """The rows of a step; an example that would be too long in other words keeps its own."""
        rng = random.Random(f"{self._settings.seed} rows {step}")
        drawn: list[Rendered] = []
        for index in _turn(self._seed("order"), len(self._examples), step * self._own, self._own):
            drawn += self._drawn(self._examples[index], rng)
        companion = self.companion(step)
        rows, turn = self._replayed[companion], step // len(self._companions)
        if rows:
            kind = self._seed(f"replay {companion}")
            at = _turn(kind, len(rows), turn * self._others, self._others)
            drawn += [rows[index] for index in at]
        return drawn

    def _drawn(self, example: Example, rng: random.Random) -> Sequence[Rendered]:
        declared = rng.random() < self._settings.mixture.declare
        if self._augmenter is not None:
            varied = self._augmenter.draw(rng, example)
            with suppress(FormatError):  # longer than the context: then as it was given
                return self._renderer.render(varied, declared)
        return self._renderer.render(example, declared)

    def _seed(self, what: str) -> str:
        return f"{self._settings.seed} {what}"


def _turn(seed: str, size: int, start: int, count: int) -> Iterator[int]:
    """Indices start to start + count of an endless deck, shuffled anew for each round."""
    deck: list[int] = []
    dealt = -1
    for position in range(start, start + count):
        if position // size != dealt:
            dealt = position // size
            deck = random.Random(f"{seed} {dealt}").sample(range(size), size)
        yield deck[position % size]


def passes(
    rows: Sequence[Rendered], accumulate: int, most: int = PASS_TOKENS
) -> list[list[Rendered]]:
    """A step's rows in at least `accumulate` passes of about `most` tokens; alike ones together."""
    size = -(-len(rows) // accumulate)
    found: list[list[Rendered]] = []
    tokens = most + 1
    for row in sorted(rows, key=lambda row: row.ids):
        if tokens + len(row.ids) > most or len(found[-1]) >= size:
            found.append([])
            tokens = 0
        found[-1].append(row)
        tokens += len(row.ids)
    return found
