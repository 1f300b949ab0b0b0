"""How the command line shows long work on a terminal's standard error: percent, or bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from lorakit.cli.output import plain

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


class Percent:
    """Called with what is done and what there is; on a terminal it says so, elsewhere nothing.

    Used as a context manager it leaves no line behind, also when the work fails or is interrupted.
    """

    def __init__(self, of: Callable[[int], str]) -> None:
        self._of = of
        self._shown = -1 if sys.stderr.isatty() else 100

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if -1 < self._shown < 100:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        percent = min(99, done * 100 // max(total, 1))
        if percent > self._shown:
            self._shown = percent
            print(f"\r{percent}% of {self._of(total)} ", end="", file=sys.stderr, flush=True)


class LiveLine:
    """Lines on standard error, below them on a terminal one that changes.

    Used as a context manager it takes the changing line away at the end, also when the work fails.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._shown = self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.show("")

    @property
    def width(self) -> int:
        """Columns of the terminal now; 80 where there is none."""
        try:
            return os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def show(self, text: str, phase: str = "") -> None:
        """Change the last line; it is cut where the terminal ends. Elsewhere nothing is said, but
        a phase as it begins, in a line that stays."""
        if not self.live and phase not in ("", self._phase):
            self._phase = phase
            self.say(phase)
        text = plain(text)[: self.width - 1]
        if self.live and text != self._shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = text

    def say(self, text: str) -> None:
        """Print a line that stays."""
        again = self._shown
        self.show("")
        print(plain(text), file=sys.stderr, flush=True)
        self.show(again)


def bars(*columns: ProgressColumn) -> Progress:
    """A bar for each task, its label before it as it is and the columns behind it; they go away."""
    from rich.console import Console  # slow to import
    from rich.progress import BarColumn, Progress, TextColumn

    terminal = Console(stderr=True)
    terminal.quiet = not terminal.is_terminal  # rich 13 ends hidden bars with an empty line
    label = TextColumn("{task.description}", markup=False)
    hidden = terminal.quiet
    return Progress(label, BarColumn(), *columns, console=terminal, transient=True, disable=hidden)


@contextmanager
def counted_bar(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """One bar, moved by (done, in all, label)."""
    from rich.progress import MofNCompleteColumn

    with bars(MofNCompleteColumn()) as bar:
        task = bar.add_task(plain(label), total=None)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=plain(name)
        )
