"""How the command line shows downloads: a bar for each file, on a terminal's standard error."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lorakit.cli.output import plain, size
from lorakit.cli.progress import LiveLine, bars
from lorakit.sources import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Downloads:
    """Shows what it is told while it is entered, and nothing where no terminal is.

    At its end one line stays, of how much was fetched, unless it tells nothing.
    It may be told by a thread that goes on after that: a base that is fetched behind a fallback.
    """

    def __init__(self, *, tells: bool = True) -> None:
        self._tells = tells
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._bytes: dict[str, int] = {}  # by task
        self._entered = False

    def __enter__(self) -> Downloads:
        self._entered = True
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._entered = False
            if self._bars is not None:
                self._bars.stop()
                if self._tells and exc[0] is None:
                    self._say_fetched()
            self._bars = None
            self._tasks.clear()
            self._bytes.clear()

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            if not self._entered:
                return
            shown = self._bars or self._start()
            key = f"{progress.source}\0{progress.file}"
            if key not in self._tasks:
                self._tasks[key] = shown.add_task(plain(progress.file), total=progress.total)
            shown.update(self._tasks[key], completed=progress.done, total=progress.total)
            self._bytes[key] = progress.done

    def _start(self) -> Bars:
        from rich.progress import DownloadColumn, TransferSpeedColumn  # slow; few commands fetch

        self._bars = bars(DownloadColumn(), TransferSpeedColumn())
        self._bars.start()
        return self._bars

    def _say_fetched(self) -> None:
        line, count = LiveLine(), len(self._bytes)
        if line.live:
            files = f"{count} file{'s' * (count > 1)}"
            line.say(f"fetched {files}, {size(sum(self._bytes.values()))}")


downloads = Downloads()
