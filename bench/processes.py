"""Whole processes side by side: wall and CPU seconds and peak memory of each, taking turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
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
    """Run every case once to warm the caches, then each in turn, `rounds` times."""
    for turn in range(rounds + 1):
        for case in cases:
            measure(case, kept=turn > 0)


def measure(case: Case, *, kept: bool = True, limit: float | None = None) -> bool:
    """Run a case once; whether it ended within `limit` seconds, after which it is killed.

    Python may keep its bytecode, as that of installed packages is kept.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    case.before()
    with tempfile.TemporaryFile("w+") as said:
        begin = time.perf_counter()
        child = subprocess.Popen(
            case.command, stdout=subprocess.DEVNULL, stderr=said, env=environment
        )
        clock = threading.Timer(limit or threading.TIMEOUT_MAX, child.kill)
        clock.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = 0
        clock.cancel()
        if status and limit is not None and wall >= limit:
            return False
        if status:
            said.seek(0)
            sys.exit(f"{case.name} failed: {' '.join(case.command)}\n{said.read()[-2000:]}")
    if kept:
        case.walls.append(wall)
        case.cpus.append(usage.ru_utime + usage.ru_stime)
        case.peaks.append(usage.ru_maxrss / 1024)
    return True


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
