"""`train`: from examples to an adapter that works."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from lorakit.adapter import Adapter
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import sweep
from lorakit.files.bounded import as_path
from lorakit.model.adapter_config import AdapterRef
from lorakit.sources import Hub, fetch, parse
from lorakit.training.batches import Batches
from lorakit.training.bundle import Trained, write_bundle
from lorakit.training.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from lorakit.training.data import Augmenter, Example
from lorakit.training.evaluate import Evaluation
from lorakit.training.evaluate.comparison import Learnt
from lorakit.training.events import Finished, OnTrainEvent, Started, TrainEvent, Warned
from lorakit.training.inputs import (
    Examples,
    Inputs,
    PathLike,
    read_inputs,
    require_device,
    require_extra,
)
from lorakit.training.interrupt import interrupts
from lorakit.training.measure import Measurer
from lorakit.training.metrics import MetricsLog, metrics_path
from lorakit.training.metrics import read as read_log
from lorakit.training.place import reserved
from lorakit.training.replayed import Replayed
from lorakit.training.result import Stopped, SweepPoint, TrainResult
from lorakit.training.settings import TrainKeywords
from lorakit.values import shown, truth

SCALES = (0.8, 0.9, 1.1, 1.25)  # that are tried beside 1


def train(
    base: PathLike,
    data: Examples,
    output: PathLike,
    *,
    eval: Examples | None = None,
    tools: PathLike | None = None,
    keep: PathLike | None = None,
    replay: Examples | None = None,
    companion: AdapterRef | Iterable[AdapterRef] | None = None,
    start: AdapterRef | None = None,
    resume: bool | None = None,
    overwrite: bool = False,
    base_model: str | None = None,
    progress: OnTrainEvent | None = None,
    offline: bool | None = None,
    allow_private: bool = False,
    **settings: Unpack[TrainKeywords],
) -> TrainResult:
    """Train an adapter on examples, measure it, and write it as a PEFT folder with all about it.

    base: a Hugging Face folder, its path, URL or hf:org/repo. data: JSONL, CSV or another file
    that docs/data.md describes, or examples. output: the folder to write; overwrite allows it to
    replace an adapter. eval: data to measure it on, which it never learns from. tools: a JSON file
    of declarations for data without, be it files or examples. keep: requests of the app's own, one
    a line, that the base answers itself and has to go on answering so, beside a shipped list;
    replay: examples of what to keep, with answers. companion: adapters that it is trained beside,
    so that they work together. start: an adapter to continue from. resume: None goes on where a
    checkpoint of this very run lies beside the output, True requires one, False begins anew.
    base_model: what the base is called where others find it. progress: called with each TrainEvent.
    settings: see LoraSpec, Schedule, Mixture, Checks and Compute; by default they suit the base's
    size and the data.

    Raises MissingExtraError without lorakit[train], and SourceError, FormatError (with every line
    that cannot be used), BaseModelError, CapabilityError, MismatchError and ParameterError before
    anything is trained; later EngineError, code out_of_memory where memory was short, and
    WriteError. After those and after KeyboardInterrupt the same call goes on from a checkpoint.
    """
    require_extra()
    if progress is not None and not callable(progress):
        raise ParameterError(f"progress must be a function or None, found {shown(progress)}")
    if not isinstance(base_model, str | None):
        raise ParameterError(f"base_model must be a name or None, found {shown(base_model)}")
    _require_truth(overwrite=overwrite, allow_private=allow_private)
    _require_truth(none=True, resume=resume, offline=offline)
    require_device(settings.get("device"))
    place = Path(os.path.realpath(as_path(output).expanduser()))  # a link's folder can be replaced
    with reserved(place, overwrite=overwrite):
        inputs = read_inputs(
            base,
            data,
            partial(fetch, offline=offline, allow_private=allow_private),
            evaluation=eval,
            tools=tools,
            keep=keep,
            replay=replay,
            companions=_references(companion),
            start=start,
            settings=settings,
        )
        return _train(
            inputs,
            place,
            base_model or _named(base, inputs),
            resume=resume,
            overwrite=overwrite,
            progress=progress or _nobody,
        )


def _train(
    inputs: Inputs,
    place: Path,
    base_model: str,
    *,
    resume: bool | None,
    overwrite: bool,
    progress: OnTrainEvent,
) -> TrainResult:
    """The run, from the checkpoint or anew, in a place that is its own."""
    path = checkpoint_path(place)
    if resume is False:
        path.unlink(missing_ok=True)
    checkpoint = load_checkpoint(path, inputs.identity)
    if resume and checkpoint is None:
        raise ParameterError(f"there is no checkpoint to go on from at {path}")
    compute = inputs.settings.compute
    log = MetricsLog(metrics_path(place))
    begun = time.monotonic()
    with Measurer(
        inputs.base,
        inputs.companions,
        engine=compute.engine or "onnx",
        device=compute.device,
        declare=inputs.declare,
        tell=progress,
    ) as measurer:
        run = _Run(inputs, path, measurer, _Teller(log, progress))
        trained = run.train(checkpoint)
        result = run.measure(trained, place, begun)
        log_lines = read_log(metrics_path(place))
        write_bundle(place, _bundle(result, inputs, base_model, log_lines), overwrite=overwrite)
    for left in (path, metrics_path(place)):
        sweep(left.parent, name=left.name)  # what a kill inside a save left
        left.unlink(missing_ok=True)
    progress(Finished(result=result))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What the loop left."""

    adapter: Adapter
    replayed: Replayed
    losses: tuple[float, ...]
    steps: int
    stopped: Stopped


class _Run:
    """One run from its inputs to what it measured."""

    def __init__(self, inputs: Inputs, path: Path, measurer: Measurer, tell: OnTrainEvent) -> None:
        self._inputs = inputs
        self._path = path
        self._measurer = measurer
        self._tell = tell

    def train(self, checkpoint: Checkpoint | None) -> _Trained:
        """Replay, load, loop."""
        from lorakit.training.core.model import load_model  # torch
        from lorakit.training.core.numerics import Numerics
        from lorakit.training.loop import Loop, Saving

        inputs, settings = self._inputs, self._inputs.settings
        replayed = self._asked() if checkpoint is None else Replayed.stored(checkpoint)
        self._tell(self._started(replayed, 0 if checkpoint is None else checkpoint.step))
        for warning in inputs.warnings:
            self._tell(Warned(text=warning))
        model = load_model(
            inputs.base,
            settings.lora,
            dtype=settings.compute.dtype,
            device=settings.compute.device,
            seed=settings.seed,
            start=inputs.start,
            companions=inputs.companions,
            numerics=None if checkpoint is None else Numerics(**checkpoint.state["numerics"]),
            checkpointing=settings.compute.checkpointing,
            quantize=settings.compute.quantize,
        )
        saving = Saving(
            path=self._path,
            identity=inputs.identity,
            tensors=replayed.tensors(),
            state=replayed.state(),
        )
        held = inputs.held
        measure = (lambda adapter: self._measurer.evaluate(held, adapter)) if held else None
        batches = self._batches(replayed)
        loop = Loop(model, batches, settings, saving, measure=measure, tell=self._tell)
        if checkpoint is None:
            loop.save()
        else:
            loop.resume(checkpoint)
        with interrupts() as pressed:
            stopped = loop.run(pressed)
        if stopped == "diverged":
            loop.back()
        loop.choose()
        return _Trained(
            adapter=model.adapter(),
            replayed=replayed,
            losses=tuple(loop.losses),
            steps=loop.step,
            stopped=stopped,
        )

    def _asked(self) -> Replayed:
        """What the base answers, alone and beside each companion."""
        asked, names = self._inputs.asked, ("", *self._inputs.companions)
        answers = {n: self._measurer.answers(asked, n) if asked else [] for n in names}
        return Replayed.of(answers, self._inputs.settings.seed)

    def _batches(self, replayed: Replayed) -> Batches:
        inputs, settings = self._inputs, self._inputs.settings
        labelled = [row for e in inputs.labelled for row in inputs.renderer.render(e, True)]
        rows = {**replayed.rows, "": [*replayed.rows[""], *labelled]}
        tests = (*inputs.evaluation, *inputs.held)
        unseen = {e.phrasing for e in tests} - {e.phrasing for e in inputs.examples}
        augmenter = (
            Augmenter(inputs.examples, settings.seed, held_out=unseen)
            if settings.mixture.augment
            else None
        )
        return Batches(settings, inputs.renderer, inputs.examples, rows, augmenter)

    def _started(self, replayed: Replayed, step: int) -> Started:
        inputs, augment = self._inputs, self._inputs.settings.mixture.augment
        rows = [row for e in inputs.examples for row in inputs.renderer.render(e, inputs.declare)]
        return Started(
            settings=inputs.settings,
            examples=len(inputs.examples),
            tokens=sum(len(row.ids) for row in rows),
            learnt_tokens=sum(row.learnt for row in rows),
            replayed=replayed.count + len(inputs.labelled),
            varied=sum(e.task == "calls" for e in inputs.examples) * augment,
            step=step,
        )

    def measure(self, trained: _Trained, place: Path, begun: float) -> TrainResult:
        """Everything that is said of the adapter."""
        inputs, measured = self._inputs, self._measured(trained)
        return TrainResult(
            adapter=trained.adapter,
            path=place,
            settings=inputs.settings,
            examples=len(inputs.examples),
            steps=trained.steps,
            seconds=time.monotonic() - begun,
            losses=trained.losses,
            measured=measured,
            sweep=self._sweep(trained),
            default_scale=1.0,
            stopped=trained.stopped,
        )

    def _measured(self, trained: _Trained) -> dict[str, Evaluation | None]:
        inputs, adapter = self._inputs, trained.adapter
        tests = inputs.evaluation or inputs.held
        found: dict[str, Evaluation | None] = dict.fromkeys(("after", "before", "kept"))
        if tests:
            found["before"] = self._measurer.evaluate(tests, None)
            found["after"] = self._measurer.evaluate(tests, adapter)
        for companion, kept in trained.replayed.kept.items():
            if kept:
                name = f"kept beside {companion}" if companion else "kept"
                found[name] = self._evaluate_kept(kept, adapter, companion)
        if inputs.held_labelled:
            found["replay_before"] = self._evaluate_kept(inputs.held_labelled, None)
            found["replay"] = self._evaluate_kept(inputs.held_labelled, adapter)
        return found

    def _evaluate_kept(
        self,
        kept: Sequence[Example],
        adapter: Adapter | None,
        companion: str = "",
        scale: float = 1,
    ) -> Evaluation:
        """Requests that the base was asked as they stand, with the tools that they declare."""
        return self._measurer.evaluate(
            kept, adapter, companion=companion, scale=scale, declare=True
        )

    def _sweep(self, trained: _Trained) -> tuple[SweepPoint, ...]:
        """The adapter at other scales, on what is held out of the training data."""
        held, kept = self._inputs.held, trained.replayed.kept[""]
        if not held or not self._inputs.settings.checks.sweep:
            return ()
        return tuple(
            SweepPoint(
                scale=scale,
                evaluation=self._measurer.evaluate(held, trained.adapter, scale=scale),
                kept=self._evaluate_kept(kept, trained.adapter, scale=scale) if kept else None,
            )
            for scale in SCALES
        )


class _Teller:
    """Passes events on, to the log first; a log that cannot be written ends no run."""

    def __init__(self, log: MetricsLog, progress: OnTrainEvent) -> None:
        self._log = log
        self._progress = progress
        self._failed = False

    def __call__(self, event: TrainEvent) -> None:
        try:
            if not self._failed:
                self._log(event)
        except WriteError as error:
            self._failed = True
            self._progress(Warned(text=f"{error.message}; curves will lack what follows"))
        self._progress(event)


def _nobody(event: TrainEvent) -> None:
    """Nobody listens."""


def _require_truth(*, none: bool = False, **given: object) -> None:
    """Raises ParameterError for what is no truth value, nor None where that means something."""
    said = "True, False or None" if none else "True or False"
    for name, value in given.items():
        if not truth(value) and not (none and value is None):
            raise ParameterError(f"{name} must be {said}, found {shown(value)}")


def _references(given: AdapterRef | Iterable[AdapterRef] | None) -> list[AdapterRef]:
    if given is None:
        return []
    one = isinstance(given, str | os.PathLike | Adapter) or not isinstance(given, Iterable)
    return [given] if one else list(given)  # type: ignore[list-item,arg-type]


def _named(base: PathLike, inputs: Inputs) -> str:
    """What others can find the base by: its repository, else its name."""
    parsed = parse(base)
    return parsed.repo if isinstance(parsed, Hub) else inputs.base.name


def _bundle(
    result: TrainResult, inputs: Inputs, base_model: str, log: Sequence[Mapping[str, Any]]
) -> Trained:
    learnt, after = Learnt.of(inputs.examples), result.measured.get("after")
    return Trained(
        adapter=result.adapter,
        base=inputs.base,
        base_model=base_model,
        tools=inputs.tools,
        declared=inputs.settings.mixture.declare,
        settings=asdict(inputs.settings),
        data=inputs.files,
        steps=result.steps,
        seconds=result.seconds,
        measured=result.measured,
        log=log,
        phrasings=learnt.phrasings,
        leaked=sum(learnt.knows(each.example) for each in after.outcomes) if after else 0,
        sweep=result.sweep,
        default_scale=result.default_scale,
    )
