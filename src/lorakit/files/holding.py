"""Entries of the cache that running processes use, so that pruning leaves them alone.

A process that uses an entry holds a shared lock of its file or folder. The system lets go of it
when the process ends, whatever ends it. Windows has none of them, and removes nothing that is open.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from time import sleep

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

TRIES, PAUSE = 100, 0.01  # seconds; who asks `is_held` has the lock for a moment
_kept: dict[tuple[int, int], int] = {}  # handles by device and inode, for as long as we live


def hold(entry: Path, owner: object | None = None) -> None:
    """Say that an entry is used: until `owner` is gone, else for as long as this process lives.

    Where nothing can be locked, nothing happens.
    """
    if (handle := _shared(entry)) is None:
        return
    if owner is not None:
        weakref.finalize(owner, os.close, handle).atexit = False
        return
    status = os.fstat(handle)
    key = (status.st_dev, status.st_ino)
    if key in _kept:
        os.close(handle)
    else:
        _kept[key] = handle


def is_held(entry: Path) -> bool:
    """Whether a running process holds an entry, this one or another."""
    try:
        handle = _locked(entry, shared=False)
    except BlockingIOError:
        return True
    if handle is not None:
        os.close(handle)
    return False


def _shared(entry: Path) -> int | None:
    for _ in range(TRIES):
        try:
            return _locked(entry, shared=True)
        except BlockingIOError:
            sleep(PAUSE)
    return None


def _locked(entry: Path, *, shared: bool) -> int | None:
    """A handle with a lock; None where nothing can be locked. Raises BlockingIOError for one that
    another process has."""
    if fcntl is None:
        return None
    try:
        handle = os.open(entry, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle
