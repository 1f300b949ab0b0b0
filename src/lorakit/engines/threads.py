"""How many threads an engine computes with where nobody says: one for every core it may use.

Physical cores, since two threads of one core share what computes; only those that this process may
run on (taskset, cpusets), and no more than its group's CPU quota pays for (containers): threads
beyond that wait for each other at every layer. Linux says all that; other systems count cores.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

_ROOT = Path("/")


def default_threads(root: Path = _ROOT) -> int:
    """At least 1. root: where proc and sys are mounted."""
    allowed = _allowed()
    if not allowed:
        return os.cpu_count() or 1
    cores = _physical(allowed, root / "sys/devices/system/cpu")
    quota = _quota(root)
    return max(1, min(cores, int(quota))) if quota is not None else cores


def _allowed() -> Collection[int]:
    """The logical CPUs that this process may run on; none where the system does not say."""
    try:
        return os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return ()


def _physical(allowed: Collection[int], folder: Path) -> int:
    """How many cores some logical CPUs are on."""
    try:
        places = [folder / f"cpu{cpu}/topology/thread_siblings_list" for cpu in allowed]
        return len({place.read_text("ascii") for place in places})
    except (OSError, ValueError):
        return len(allowed)


def _quota(root: Path) -> float | None:
    """CPUs that the group of this process may use, the least of it and the groups around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return None
    found = []
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        top = root / "sys/fs/cgroup"
        if not kinds:  # version 2 has one tree
            found += [_second(folder) for folder in _upwards(top, path)]
        elif "cpu" in kinds.split(","):
            tops = {top / kinds, top / "cpu"}
            found += [_first(folder) for place in tops for folder in _upwards(place, path)]
    known = [quota for quota in found if quota is not None]
    return min(known, default=None)


def _upwards(top: Path, path: str) -> list[Path]:
    """The folder of a group and those around it; in a container only the top is there."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _second(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _first(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
        return quota / int((folder / "cpu.cfs_period_us").read_text("ascii")) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
