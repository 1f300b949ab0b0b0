"""Whole processes side by side: wall and CPU seconds and peak memory of each, taking turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Case:
    """A command to time. before: what makes room for it, not timed."""

    name: str
    command: Sequence[str]
    before: Callable[[], object] = lambda: None
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)


def alternate(cases: Sequence[Case], rounds: int) -> None:
    """Run every case once to warm the caches, then each in turn, `rounds` times.

    Python may keep its bytecode, as that of installed packages is kept.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for turn in range(rounds + 1):
        for case in cases:
            case.before()
            begin = time.perf_counter()
            child = subprocess.Popen(
                case.command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - begin
            if status:
                sys.exit(f"{case.name} failed: {' '.join(case.command)}")
            child.returncode = 0
            if turn:
                case.walls.append(wall)
                case.cpus.append(usage.ru_utime + usage.ru_stime)
                case.peaks.append(usage.ru_maxrss / 1024)


def table(cases: Sequence[Case], against: Case) -> list[str]:
    """Markdown rows: medians with the range, and each case over `against` in the same turn."""
    rows = ["| process | s | cpu s | peak MiB | x the first, paired |", "|---|---|---|---|---|"]
    for case in cases:
        ratios = [own / other for own, other in zip(case.walls, against.walls, strict=True)]
        rows.append(
            f"| {case.name} | {spread(case.walls)} | {spread(case.cpus)} "
            f"| {statistics.median(case.peaks):.0f} | {spread(ratios)} |"
        )
    return rows


def spread(values: Sequence[float]) -> str:
    """median (lowest-highest)"""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def load() -> str:
    """What else the machine was doing."""
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
