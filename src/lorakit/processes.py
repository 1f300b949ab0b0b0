"""What the end of a process, and a fork of it, mean for what holds threads and locks.

At the end of a process engines are closed while Python still runs. A thread that opens one is
waited for: from native code it would come back into a Python that is gone, which aborts the
process. In a child that was forked engines are the parent's (see EngineThread.forked), and locks
may be held for ever by threads that are not there: who has a lock renews it.

A process that goes on after an engine was closed gives the memory that this freed back to the
system: glibc keeps it otherwise, as pages between others that are in use.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class Owner(Protocol):
    """What holds native state in a thread: an EngineThread."""

    def close(self) -> None: ...

    def forked(self) -> None: ...


T = TypeVar("T")
log = logging.getLogger("lorakit")
AT_END = 10.0  # seconds that threads have to come back at the end of the process
_OWNERS: weakref.WeakKeyDictionary[Owner, threading.Thread | None] = weakref.WeakKeyDictionary()
_RENEWED: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()
_ending = False  # the process is, and the system takes all


def watch(owner: Owner, thread: threading.Thread | None = None) -> None:
    """Close it when the process ends, and tell it of a fork. thread: what has to end before."""
    _OWNERS[owner] = thread


def leave_to_parent(owned: object) -> None:
    """Keep an object of the parent's for ever: freeing it would wait for threads that it lacks."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


def on_fork(owner: T, renew: Callable[[T], object]) -> None:
    """Call a function with an object in every child that is forked while the object lives."""
    _RENEWED[owner] = renew


def give_memory_back() -> None:
    """What is freed and not the system's again: malloc_trim(3), where the C library has it."""
    if _ending or sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _close_all() -> None:
    global _ending
    _ending = True
    for owner in list(_OWNERS):
        try:
            owner.close()
        except Exception:
            log.exception("an engine could not be closed")
    until = time.monotonic() + AT_END
    for thread in [thread for thread in list(_OWNERS.values()) if thread is not None]:
        thread.join(max(0.0, until - time.monotonic()))


def _forked() -> None:
    for owner in list(_OWNERS):
        owner.forked()
    for renewed, renew in list(_RENEWED.items()):
        renew(renewed)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
