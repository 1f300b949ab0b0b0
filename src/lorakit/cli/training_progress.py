"""What a training run says while it runs: a changing line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.cli.progress import LiveLine
from lorakit.training.events import Evaluated, Started, Stepped, TrainEvent, Warned, Working
from lorakit.training.verdict import headline

PLAIN_LINES = 10  # of a whole run, where nothing can change in place
BAR = 15  # characters, where there is room


class TrainingProgress:
    """Given every event of a run as its `progress`."""

    def __init__(self, line: LiveLine) -> None:
        self._line = line
        self._measured = ""  # the latest evaluation, in a few characters
        self._part = 0

    def __call__(self, event: TrainEvent) -> None:
        if isinstance(event, Started):
            self._line.say(started(event))
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Working):
            self._line.show(f"{event.what}  {event.done}/{event.total}")
        elif isinstance(event, Evaluated):
            main = headline(event.evaluation)
            self._measured = f"{main.said} {main.name}"
            self._line.say(f"step {event.step}: {main.said} {main.name}")
        elif isinstance(event, Warned):
            self._line.say(f"note: {event.text}")

    def _step(self, event: Stepped) -> None:
        if self._line.live:
            self._line.show(status(event, self._measured, self._line.width - 1))
            return
        part = event.step * PLAIN_LINES // max(event.steps, 1)
        if part > self._part or event.step == 1:
            self._part = part
            self._line.say(status(event, "", 200, bar=False))


def started(event: Started) -> str:
    """What is trained on, in a line."""
    again = f"taken up at step {event.step}: " if event.step else ""
    varied = f", {event.varied:,} of them varied in values and wording" if event.varied else ""
    replayed = f", and {event.replayed:,} requests to keep" if event.replayed else ""
    return (
        f"{again}{event.examples:,} examples{varied}{replayed}; "
        f"{event.tokens:,} tokens, {event.learnt_tokens:,} of them to learn"
    )


def status(event: Stepped, measured: str, width: int, *, bar: bool = True) -> str:
    """Where a run is, in at most `width` characters: what matters least is left out first."""
    count = f"{event.step}/{event.steps}"
    left = f"{duration(event.seconds_left)} left" if event.seconds_left is not None else ""
    loss = f"loss {event.loss:.3g}"
    speed = f"{event.tokens_per_second:,.0f} tokens/s"
    for parts in (
        (f"step {count}", loss, speed, left, measured),
        (count, loss, speed, left, measured),
        (count, loss, left, measured),
        (count, left, measured),
        (count, left),
    ):
        text = _joined(parts)
        if len(text) <= width:
            break
    if not bar or width - len(text) - 2 < BAR:
        return text
    filled = BAR * event.step // max(event.steps, 1)
    return f"{parts[0]}  {'#' * filled}{'.' * (BAR - filled)}  {_joined(parts[1:])}"


def _joined(parts: Sequence[str]) -> str:
    return "  ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """0:07, 4:05, 1:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
