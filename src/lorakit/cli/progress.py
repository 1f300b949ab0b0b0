"""How the command line shows long work: a line of percent on a terminal's standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Self


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
