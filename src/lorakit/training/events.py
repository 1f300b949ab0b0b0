"""What a training run tells its caller while it runs: `progress` is called with one of these.

Calls happen on the thread that trains, between two steps; an exception raised in one ends the run
like Ctrl-C, with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorakit.training.evaluate import Evaluation
    from lorakit.training.result import TrainResult
    from lorakit.training.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The data is read and the model is loaded.

    settings: with every default filled in. examples: to learn from. tokens: of all of them once,
    learnt_tokens of which are answers. replayed: requests that the base answered, so that it keeps
    what it can. varied: examples that are drawn with other values and in other words. step: 0, or
    where an interrupted run is taken up.
    """

    settings: TrainSettings
    examples: int
    tokens: int
    learnt_tokens: int
    replayed: int
    varied: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """Something else goes on than steps: "asking the base", "measuring"; done of total answers."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One step was taken.

    loss: mean over the step's learnt tokens. tokens_per_second: tokens of the examples, shared
    prefixes counted for each. seconds_left: None until it can be told.
    """

    step: int
    steps: int
    loss: float
    rate: float
    learnt_tokens: int
    tokens_per_second: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The adapter as it is after a step, measured on examples that are held out."""

    step: int
    evaluation: Evaluation
    best: bool  # so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointed:
    """The run can be taken up from here, whatever happens to the process."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something that the user should know, in one sentence."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The adapter is written."""

    result: TrainResult


TrainEvent = Started | Working | Stepped | Evaluated | Checkpointed | Warned | Finished
OnTrainEvent = Callable[[TrainEvent], None]
