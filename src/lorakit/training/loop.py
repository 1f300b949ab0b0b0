"""The loop: steps, measurements between them, checkpoints, and every way in which it can end.

Between two steps all that it holds is consistent: whatever interrupts it, a checkpoint can be
written then. A step whose loss or gradient is no number changes nothing. Needs torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorakit.adapter import Adapter, Array
from lorakit.errors import EngineError, WriteError
from lorakit.training.batches import Batches, passes
from lorakit.training.checkpoint import Checkpoint, save_checkpoint
from lorakit.training.core.memory import torch_errors
from lorakit.training.core.model import TrainModel
from lorakit.training.evaluate import Evaluation
from lorakit.training.events import Checkpointed, Evaluated, OnTrainEvent, Stepped, Warned
from lorakit.training.interrupt import Interrupts
from lorakit.training.measure import NOT_FINITE
from lorakit.training.optimizer import Optimizer, to_array
from lorakit.training.render import Rendered
from lorakit.training.result import Stopped
from lorakit.training.schedule import rate_at
from lorakit.training.settings import TrainSettings

SAVE_SECONDS = 30.0  # between checkpoints, where their number of steps is not set
PACE, FIRST = 60, 3  # steps that the time left is told from; the first ones are slow
SMALLER = (
    "the same training in less memory: accumulate=2 (4, ...), or checkpointing=True; else lower "
    "batch or rank, leave declarations out, or train shorter examples"
)
Measure = Callable[[Adapter], Evaluation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Where checkpoints go, and what they hold beside the loop's own: `tensors`, `state`."""

    path: Path
    identity: Mapping[str, Any]
    tensors: Mapping[str, Array]
    state: Mapping[str, Any]


class Loop:
    """One run. measure: the evaluation that chooses the best state; None keeps the last one."""

    def __init__(
        self,
        model: TrainModel,
        batches: Batches,
        settings: TrainSettings,
        saving: Saving,
        *,
        measure: Measure | None,
        tell: OnTrainEvent,
    ) -> None:
        self._model = model
        self._batches = batches
        self._settings = settings
        self._saving = saving
        self._measure = measure
        self._tell = tell
        self._optimizer = Optimizer(model.parameters(), settings.schedule.weight_decay)
        self._steps = settings.schedule.steps or 0
        self._whole = True  # whether all that is held is of one step
        self._saved = time.monotonic()
        self._ends: list[float] = []  # of the last steps, on the clock of time.monotonic
        self._told = False  # that a checkpoint could not be written
        self._best: dict[str, Array] = {}
        self._before: dict[str, Array] = {}  # the last step, whose loss was a number with these
        self._goal = -math.inf
        self._stale = 0  # measurements without an improvement
        self.best_step = 0
        self.step = 0
        self.losses: list[float] = []

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from there."""
        state = checkpoint.state
        self._restore(checkpoint.part("model"))
        self._optimizer.restore(checkpoint.part("optimizer"))
        self._best = checkpoint.part("best")
        self._goal = -math.inf if state["goal"] is None else state["goal"]
        self._stale, self.best_step = state["stale"], state["best_step"]
        self.losses = checkpoint.tensors["losses"].tolist()
        self.step = checkpoint.step

    def run(self, interrupts: Interrupts) -> Stopped:
        """Train to the end. Raises KeyboardInterrupt, EngineError and what `tell` raises; then
        there is a checkpoint."""
        try:
            while self.step < self._steps:
                interrupts.raise_if_pressed()
                if not self._take_step():
                    return "diverged"
                if ended := self._measure_at_times():
                    return ended
                self._save_at_times()
            self.save()
        except BaseException as error:
            if self._whole:
                self.save()
            if isinstance(error, EngineError) and error.code == "out_of_memory":
                raise self._out_of_memory(error) from error
            raise
        return "done"

    def choose(self) -> None:
        """Put the best state that was measured in place of the last one."""
        if self._best:
            self._restore(self._best)

    def back(self) -> None:
        """After "diverged": the best state, else the last one with which a loss was a number.

        Raises EngineError where nothing was learnt by then.
        """
        if not self._best and self.step > 1 and self._before:
            self._restore(self._before)
            self.step -= 1
            self.losses.pop()
        elif not self._best:
            raise EngineError(
                f"the loss is no number any more after {self.step} steps, and no earlier state "
                "could be kept",
                hint=f"{self._milder()}; with resume=False, since no checkpoint fits those",
            )

    def save(self) -> None:
        """Write a checkpoint. Raises WriteError for the first one; later, the user is told."""
        tensors = {
            **self._saving.tensors,
            "losses": np.array(self.losses, np.float64),
            **{f"model/{k}": v for k, v in self._parameters().items()},
            **{f"optimizer/{k}": v for k, v in self._optimizer.state().items()},
            **{f"best/{k}": v for k, v in self._best.items()},
        }
        state = {
            **self._saving.state,
            "numerics": asdict(self._model.numerics),
            "goal": self._goal if math.isfinite(self._goal) else None,
            "stale": self._stale,
            "best_step": self.best_step,
        }
        checkpoint = Checkpoint(step=self.step, tensors=tensors, state=state)
        try:
            save_checkpoint(self._saving.path, self._saving.identity, checkpoint)
        except WriteError as error:
            if not self.step:
                raise
            if not self._told:
                self._told = True
                said = f"{error.message}; an earlier checkpoint is kept, and training goes on"
                self._tell(Warned(text=said))
            return
        finally:
            self._saved = time.monotonic()
        self._told = False
        self._tell(Checkpointed(step=self.step, path=self._saving.path))

    def _parameters(self) -> dict[str, Array]:
        return {name: to_array(tensor) for name, tensor in self._model.state().items()}

    def _restore(self, parameters: Mapping[str, Array]) -> None:
        self._model.restore({name: torch.from_numpy(a) for name, a in parameters.items()})

    # One step.

    def _take_step(self) -> bool:
        """Whether loss and gradient were numbers; else nothing is changed."""
        step, begun = self.step, time.monotonic()
        rows = self._batches.rows(step)
        companion = self._batches.companion(step)
        learnt = sum(row.learnt for row in rows)
        rate = rate_at(step, self._settings.schedule)
        with torch_errors(f"taking step {step + 1}"):
            loss = self._gradient(rows, learnt, {companion: 1.0} if companion else {})
            sound = math.isfinite(loss) and math.isfinite(self._optimizer.limit())
            if sound:
                self._whole = False
                self._before = self._parameters()
                self._optimizer.step(rate)
                self.losses.append(loss)
                self.step += 1
                self._whole = True
            self._optimizer.clear()
        if not sound:
            said = f"the loss or its gradient is no number in step {step + 1} (loss {loss:g})"
            self._tell(Warned(text=self._diverged(said)))
            return False
        self._tell_step(rows, learnt, rate, begun)
        return True

    def _tell_step(self, rows: list[Rendered], learnt: int, rate: float, begun: float) -> None:
        now = time.monotonic()
        self._ends = [*self._ends[-PACE:], now]  # measurements and saves between them count too
        pace = (now - self._ends[0]) / max(len(self._ends) - 1, 1)
        told = len(self._ends) > FIRST
        self._tell(
            Stepped(
                step=self.step,
                steps=self._steps,
                loss=self.losses[-1],
                rate=rate,
                learnt_tokens=learnt,
                tokens_per_second=sum(len(row.ids) for row in rows) / max(now - begun, 1e-9),
                seconds_left=pace * (self._steps - self.step) if told else None,
            )
        )

    def _gradient(
        self, rows: list[Rendered], learnt: int, companions: Mapping[str, float]
    ) -> float:
        """The mean loss of the step, its gradient left with the parameters."""
        total = 0.0
        for part in passes(rows, self._settings.schedule.accumulate):
            loss, _ = self._model.loss(part, companions)
            (loss / learnt).backward()
            total += float(loss.detach())
        return total / learnt

    # Between steps.

    def _measure_at_times(self) -> Stopped | None:
        """Measure where it is time to; how the run ends there, if it does."""
        every = self._settings.checks.evaluate_every or self._steps
        if self._measure is None or (self.step % every and self.step < self._steps):
            return None
        try:
            evaluation = self._measure(self._model.adapter())
        except EngineError as error:
            if NOT_FINITE not in error.message:
                raise
            self._tell(Warned(text=self._diverged(f"{error.message}, after step {self.step}")))
            return "diverged"
        better = evaluation.goal > self._goal
        best = evaluation.goal >= self._goal  # of equals the later one, which has learnt more
        if best:
            self._goal, self.best_step = evaluation.goal, self.step
            self._best = self._parameters()
        self._stale = 0 if better else self._stale + 1
        self._tell(Evaluated(step=self.step, evaluation=evaluation, best=best))
        patience = self._settings.checks.patience
        return "early" if patience is not None and self._stale >= patience else None

    def _save_at_times(self) -> None:
        every = self._settings.checks.checkpoint_every
        if self.step == self._steps:
            return  # saved by `run`
        if every is None and time.monotonic() - self._saved < SAVE_SECONDS:
            return
        if every is None or self.step % every == 0:
            self.save()

    # What goes wrong.

    def _diverged(self, why: str) -> str:
        good = self.best_step or max(self.step - 1, 0)
        return (
            f"{why}, so training stops; what was learnt by step {good} is kept. What helps: "
            f"{self._milder()}"
        )

    def _milder(self) -> str:
        return f"a rate below {self._settings.schedule.rate:g}, or dtype float32"

    def _out_of_memory(self, error: EngineError) -> EngineError:
        return EngineError(
            error.message,
            code=error.code,
            items=[f"{self.step} of {self._steps} steps are kept in {self._saving.path}"],
            hint=SMALLER,
        )
