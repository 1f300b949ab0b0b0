"""What bounds a download, and what tells its caller how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields

from lorakit.errors import ParameterError
from lorakit.values import finite, shown, whole

GIB = 1 << 30
_NO = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the download of one file is; `total` is None while nobody knows."""

    source: str  # the URL or repository, safe to show
    file: str
    done: int  # bytes
    total: int | None


OnProgress = Callable[[Progress], None]  # may raise, which ends the download


class Counted:
    """A progress that counts the bytes that come, and tells the caller's own."""

    def __init__(self, told: OnProgress | None) -> None:
        self._told = told
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        self._first.setdefault(progress.file, progress.done)
        self._last[progress.file] = progress.done
        if self._told is not None:
            self._told(progress)

    @property
    def bytes(self) -> int:
        """How many came; what an earlier download left does not count."""
        return sum(self._last.values()) - sum(self._first.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large, how slow and how unreliable a source may be."""

    max_bytes: int | None = None  # of all files together; None is the kind's: see MAX_BYTES
    timeout: float = 20.0  # seconds to connect, and between two pieces of a body
    deadline: float = 24 * 3600.0  # seconds for one file, with all retries and waits
    min_rate: float = 1024.0  # bytes per second that must come, averaged over `rate_time`
    rate_time: float = 60.0  # seconds
    retries: int = 4  # in a row that did not get on, at `min_rate`
    backoff: float = 0.5  # seconds before the first retry; doubled before each further one
    max_wait: float = 60.0  # seconds that a server's Retry-After may ask for

    def __post_init__(self) -> None:
        """Raises ParameterError with every value that is no limit."""
        faults = [
            f"{item.name}: expected {expected}, found {shown(value)}"
            for item in fields(self)
            if (expected := _fault(item.name, value := getattr(self, item.name)))
        ]
        if faults:
            raise ParameterError("the limits of a download are out of range", items=faults)


_POSITIVE = ("timeout", "deadline", "rate_time")
_WHOLE = ("max_bytes", "retries")


def _fault(name: str, value: object) -> str:
    """What was expected of a limit, or an empty string."""
    if name == "max_bytes" and value is None:
        return ""
    if name in _WHOLE:
        good = whole(value) and 0 <= value < 1 << 63  # type: ignore[operator]
        return "" if good else "an integer of 0 or more"
    number = finite(value)
    if name in _POSITIVE:
        return "" if number and value > 0 else "a finite number above 0"  # type: ignore[operator]
    return "" if number and value >= 0 else "a finite number of 0 or more"  # type: ignore[operator]


MAX_BYTES = {"adapter": 8 * GIB, "base": 256 * GIB}


def is_offline(offline: bool | None) -> bool:
    """The caller's word; where there is none, LORAKIT_OFFLINE or HF_HUB_OFFLINE."""
    if offline is not None:
        return offline
    names = ("LORAKIT_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() not in _NO for name in names)
