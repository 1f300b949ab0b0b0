"""How much memory this process may still take: Linux says it, other systems do not."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/")


def free_memory(root: Path = _ROOT) -> float | None:
    """Bytes that can still be had; None where the system does not say. root: where proc is."""
    try:
        free = 1024.0 * _named(root / "proc/meminfo", "MemAvailable:")
    except (OSError, ValueError):
        return None
    group = root / "sys/fs/cgroup"
    try:  # of a container, where files that are cached but idle count as used
        most, used = float((group / "memory.max").read_text()), _named(group / "memory.current")
        return min(free, most - used + _named(group / "memory.stat", "inactive_file"))
    except (OSError, ValueError):  # none, or "max", which is no number
        return free


def _named(path: Path, name: str = "") -> float:
    """The number after a name in one of the kernel's tables, or the only one. Raises ValueError."""
    words = path.read_text().split()
    return float(words[words.index(name) + 1 if name else 0])
