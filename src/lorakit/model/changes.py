"""What a change of the active adapters is, in words: for the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from lorakit.adapter import Adapter
from lorakit.values import shown

log = logging.getLogger("lorakit")


def changed(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """What makes one active set of another, in words."""
    said = [
        f"applied {shown(name)} at {scale:g}"
        if name not in before
        else f"rescaled {shown(name)} from {before[name]:g} to {scale:g}"
        for name, scale in now.items()
        if before.get(name) != scale
    ]
    return said + [f"removed {shown(name)}" for name in before if name not in now]


def acting(scales: Mapping[str, float]) -> set[str]:
    """Those that are not at scale 0."""
    return {name for name, scale in scales.items() if scale}


def log_when_done(changes: Sequence[str], begin: float, done: Future[None]) -> None:
    """Log changes that the runtime has made; begin: when they were asked for."""
    if not done.cancelled() and done.exception() is None:
        log.info("%s, in %.3f s", ", ".join(changes), time.monotonic() - begin)


def doubled(held: Mapping[str, Adapter | None], scales: Mapping[str, float]) -> list[str]:
    """That adapters are the same one, whose scales then add up; None is one that a server holds."""
    alike: dict[str, list[str]] = {}
    for name, adapter in held.items():
        if adapter is not None:
            alike.setdefault(adapter.digest, []).append(name)  # known since it was loaded
    return [
        f"{' and '.join(names)} are the same adapter: together it acts at the scale "
        f"{sum(scales[name] for name in names):g}"
        for names in alike.values()
        if len(names) > 1
    ]
