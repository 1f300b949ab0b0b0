"""Where lorakit keeps what it can make again: graphs, fingerprints, downloads, merged bases.

The folder is `$LORAKIT_CACHE`, else the platform's cache folder. Every write is atomic, and a cache
that cannot be written is never an error.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lorakit.atomic import write_atomic


def cache_root() -> Path:
    """The cache folder; it may not exist yet."""
    if chosen := os.environ.get("LORAKIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "lorakit"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/lorakit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorakit"


class Memo:
    """Small strings remembered on disk by key, in one subfolder of the cache."""

    def __init__(self, kind: str) -> None:
        self._folder = cache_root() / kind

    def get(self, key: str, compute: Callable[[], str]) -> str:
        path = self._folder / hashlib.sha256(key.encode()).hexdigest()
        try:
            return path.read_text(encoding="ascii")
        except (OSError, ValueError):
            pass
        value = compute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, value.encode("ascii"))
        except OSError as error:
            import logging  # slow, and this is rare

            logging.getLogger("lorakit").info("no place in the cache for %s: %s", key, error)
        return value


def touch(path: Path) -> None:
    """Note that an entry was used just now; `lorakit cache prune` goes by that."""
    with suppress(OSError):
        os.utime(path)
