"""A run's metrics: every event as a JSON object, one a line, and the curves of what was logged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.errors import WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import read_text
from lorakit.training.curves import BLUE, FAINT, GREEN, Panel, draw
from lorakit.training.events import (
    Evaluated,
    Started,
    Stepped,
    TrainEvent,
    Warned,
)
from lorakit.training.verdict import headline

Line = Mapping[str, Any]


class MetricsLog:
    """Given every event of a run; writes one JSON object a line.

    A run that is taken up again goes on in the same file: what was logged after its checkpoint is
    taken out, so that each step stands there once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: TrainEvent) -> None:
        """Log an event. Raises WriteError where the disk refuses."""
        found = as_line(event)
        if found is None:
            return
        try:
            if isinstance(event, Started):
                before = [line for line in read(self._path) if line.get("step", 0) <= event.step]
                text = "".join(map(written, before if event.step else []))
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._path, text.encode())
            with self._path.open("a", encoding="utf-8") as file:
                file.write(written(found))
        except OSError as error:
            raise WriteError(f"cannot write {self._path}: {error.strerror or error}") from error


def metrics_path(output: Path) -> Path:
    """Where the log lies while a run goes on: beside its output."""
    return output.with_name(f"{output.name}.metrics.jsonl")


def as_line(event: TrainEvent) -> Line | None:
    """What is logged of an event; None where it is not."""
    if isinstance(event, Started):
        counts = ("examples", "tokens", "learnt_tokens", "replayed", "step")
        return {"event": "started", **{name: getattr(event, name) for name in counts}}
    if isinstance(event, Stepped):
        return {
            "event": "step",
            "step": event.step,
            "loss": _rounded(event.loss),
            "rate": _rounded(event.rate),
            "learnt_tokens": event.learnt_tokens,
            "tokens_per_second": round(event.tokens_per_second, 1),
        }
    if isinstance(event, Evaluated):
        main = headline(event.evaluation)
        return {
            "event": "evaluation",
            "step": event.step,
            "best": event.best,
            "measure": main.name,
            "value": _rounded(main.value),
            "share": main.share,
        }
    return {"event": "warning", "text": event.text} if isinstance(event, Warned) else None


def read(path: Path) -> list[Line]:
    """The lines of a log; what a killed process left of its last line is left out."""
    if not path.exists():
        return []
    text = read_text(path)
    lines, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in lines.splitlines() if line]


def curves(lines: Iterable[Line], *, title: str, base: float | None = None) -> str:
    """The log as an SVG picture. base: what the base reached in the evaluation's main measure."""
    steps = [line for line in lines if line["event"] == "step"]
    measured = [line for line in lines if line["event"] == "evaluation"]
    panels = [
        Panel(
            title="Loss on the answers",
            points=_points(steps, "loss"),
            colour=BLUE,
            height=190,
            smooth=True,
        ),
        Panel(
            title=f"{measured[-1]['measure']} on unseen examples".capitalize() if measured else "",
            points=_points(measured, "value"),
            colour=GREEN,
            height=150,
            share=all(line["share"] for line in measured),
            dots=True,
            reference=None if base is None else (base, "base"),
        ),
        Panel(title="Learning rate", points=_points(steps, "rate"), colour=FAINT, height=70),
    ]
    return draw(panels, title=title)


def _points(lines: Sequence[Line], key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in lines if line[key] is not None]


def _rounded(value: float) -> float | None:
    """Six digits; JSON has no NaN and no infinity."""
    return float(f"{value:.6g}") if value - value == 0 else None


def written(line: Line) -> str:
    """A line of a log."""
    return json.dumps(line) + "\n"
