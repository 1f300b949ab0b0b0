"""A training run on the command line: progress, Ctrl-C, what was written and whether it worked."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lorakit.cli.output import command_line, say
from lorakit.cli.progress import LiveLine
from lorakit.cli.references import open_base
from lorakit.cli.training_progress import TrainingProgress, duration
from lorakit.errors import ParameterError
from lorakit.formats import FormatName
from lorakit.formats.convert import convert
from lorakit.training.events import Checkpointed, Started, TrainEvent
from lorakit.training.facts import read_facts
from lorakit.training.result import TrainResult
from lorakit.training.run import train
from lorakit.training.tensorboard import TensorBoardLog

ENDINGS: Mapping[FormatName, str] = {
    "mlx": "-mlx",
    "gguf": ".gguf",
    "ort": ".onnx_adapter",
    "web": ".safetensors",
}  # beside the folder
ENDS = {
    "early": "stopped early: it no longer got better",
    "diverged": "stopped: the loss was no number any more; this is the last good state",
}


def run(
    base: str, data: Path, output: Path, *, tensorboard: Path | None = None, **settings: Any
) -> TrainResult:
    """Train with progress on the terminal. Ctrl-C says how to go on, and goes on its way."""
    saved: list[int] = []
    with LiveLine() as line:
        listeners: list[Callable[[TrainEvent], None]] = [TrainingProgress(line)]
        if tensorboard is not None:
            listeners.append(TensorBoardLog(tensorboard))

        def progress(event: TrainEvent) -> None:
            if isinstance(event, Started):
                stack.enter_context(_pressed_between_steps())
            if isinstance(event, Checkpointed):
                saved.append(event.step)
            for listener in listeners:
                listener(event)

        try:
            with ExitStack() as stack:
                return train(base, data, output, progress=progress, **settings)
        except KeyboardInterrupt:
            if saved:
                line.say(f"saved at step {saved[-1]}: the same command goes on from there")
            raise


@contextmanager
def _pressed_between_steps() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which `train` waits with until a step is done.

    Only then: while torch is imported it is the program's, which knows that a failed import was it.
    """
    before = signal.getsignal(signal.SIGINT)
    if callable(before):  # neither ignored nor the system's
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)


def places(
    output: Path, formats: Sequence[FormatName], *, overwrite: bool
) -> dict[FormatName, Path]:
    """Where the adapter is written in other formats. Raises ParameterError for what is taken."""
    found = {
        name: output.with_name(output.name + ENDINGS[name]) for name in formats if name in ENDINGS
    }
    taken = [str(path) for path in found.values() if path.exists()]
    if taken and not overwrite:
        raise ParameterError(
            "these exist", items=taken, hint="name another OUT, or replace them: --overwrite"
        )
    return found


def convert_to(
    result: TrainResult,
    base: str,
    others: Mapping[FormatName, Path],
    *,
    allow_private: bool,
) -> None:
    """Write what was trained in other formats too."""
    for name, path in others.items():
        opened = open_base(base, allow_private=allow_private)
        new = path.with_name(f"{path.name}.new") if path.exists() else path
        convert(result.path, new, to=name, base=opened)
        if new != path:  # which was allowed before the run
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            new.rename(path)


def as_json(result: TrainResult, others: Mapping[FormatName, Path]) -> dict[str, Any]:
    """For programs: what lorakit.json says, and where things are."""
    facts = facts_of(result)
    return {
        "output": str(result.path),
        "formats": {name: str(path) for name, path in others.items()},
        "stopped": result.stopped,
        **{name: facts[name] for name in ("verdict", "evaluation", "default_scale", "training")},
    }


def show_verdict(result: TrainResult) -> None:
    """Whether it worked, in plain language."""
    for number, sentence in enumerate(facts_of(result)["verdict"]):
        say((sentence, "bold" if number == 0 else ""))
    if result.stopped in ENDS:
        say((ENDS[result.stopped], "yellow"))
    if result.stopped == "diverged":
        rate = (result.settings.schedule.rate or 0) / 3
        say(f"to go on from there, into another folder: --from {result.path} --rate {rate:.2g}")


def show_written(
    result: TrainResult, base: str, output: Path, others: Mapping[FormatName, Path]
) -> None:
    """What was written, and how to try it."""
    adapter = facts_of(result)["adapter"]
    numbers, time = f"{adapter['parameters']:,} numbers", duration(result.seconds)
    say(f"wrote {output}: rank {adapter['rank']}, {numbers}; {result.steps} steps in {time}")
    for name, path in others.items():
        say(f"wrote {path}: {name}")
    scale = result.default_scale
    reference = str(output) if scale == 1 else f"{output}:{scale:g}"
    words = ["-a", reference, _request(result)]
    say("try: ", command_line("lorakit", "run", base, *words))


def facts_of(result: TrainResult) -> Mapping[str, Any]:
    """What lorakit.json of a run says."""
    facts = read_facts(result.path)
    assert facts is not None  # it was just written
    return facts


def _request(result: TrainResult) -> str:
    """Something to ask the adapter that it gets right, by a call where it can."""
    after = result.measured.get("after")
    asked = [each for each in after.outcomes if each.request and each.exact] if after else []
    asked.sort(key=lambda each: bool(each.pairs))
    return asked[-1].request if asked else "..."
