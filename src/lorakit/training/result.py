"""What a training run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lorakit.adapter import Adapter
from lorakit.training.evaluate import Evaluation
from lorakit.training.settings import TrainSettings

Stopped = Literal["done", "early", "diverged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """The adapter at another scale, on held-out examples. kept: of what the base could do."""

    scale: float
    evaluation: Evaluation
    kept: Evaluation | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """A trained adapter, and how it went.

    path: the PEFT folder that was written. settings: with nothing left open. steps: that were
    taken. losses: of each step, mean over its learnt tokens. measured, None where there was
    nothing to measure on: "before" and "after", the base and the adapter on the evaluation data,
    else on what was held out of the training data; "kept", held-back requests with the base's own
    answers as the right ones; "replay_before" and "replay", held-back examples of a labelled
    replay file. sweep: the adapter at other scales. stopped: "done"; "early" without improvement;
    "diverged" where the loss was no number any more, and the adapter is the last good one.
    """

    adapter: Adapter
    path: Path
    settings: TrainSettings
    examples: int
    steps: int
    seconds: float
    losses: tuple[float, ...] = field(repr=False)
    measured: Mapping[str, Evaluation | None] = field(repr=False)
    sweep: tuple[SweepPoint, ...] = field(repr=False)
    default_scale: float
    stopped: Stopped
