"""How the command line shows downloads: a bar for each file, on a terminal's standard error."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lorakit.cli.output import plain
from lorakit.cli.progress import bars
from lorakit.sources import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Downloads:
    """Shows what it is told while it is entered, and nothing where no terminal is.

    It may be told by a thread that goes on after that: a base that is fetched behind a fallback.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._entered = False

    def __enter__(self) -> Downloads:
        self._entered = True
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._entered = False
            if self._bars is not None:
                self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def __call__(self, progress: Progress) -> None:
        with self._lock:
            if not self._entered:
                return
            shown = self._bars or self._start()
            key = f"{progress.source}\0{progress.file}"
            if key not in self._tasks:
                self._tasks[key] = shown.add_task(plain(progress.file), total=progress.total)
            shown.update(self._tasks[key], completed=progress.done, total=progress.total)

    def _start(self) -> Bars:
        from rich.progress import DownloadColumn, TransferSpeedColumn  # slow; few commands fetch

        self._bars = bars(DownloadColumn(), TransferSpeedColumn())
        self._bars.start()
        return self._bars


downloads = Downloads()
