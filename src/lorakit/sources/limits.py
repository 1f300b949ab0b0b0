"""What bounds a download, and what tells its caller how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large, how slow and how unreliable a source may be."""

    max_bytes: int | None = None  # of all files together; None is the kind's: see MAX_BYTES
    timeout: float = 20.0  # seconds to connect, and between two pieces of a body
    retries: int = 4  # in a row without a new byte
    backoff: float = 0.5  # seconds before the first retry; doubled before each further one
    max_wait: float = 60.0  # seconds that a server's Retry-After may ask for


MAX_BYTES = {"adapter": 8 * GIB, "base": 256 * GIB}


def is_offline(offline: bool | None) -> bool:
    """The caller's word; where there is none, LORAKIT_OFFLINE or HF_HUB_OFFLINE."""
    if offline is not None:
        return offline
    names = ("LORAKIT_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() not in _NO for name in names)
