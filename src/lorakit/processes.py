"""What the end of a process, and a fork of it, mean for what holds threads and locks.

At the end of a process engines are closed while Python still runs. In a child that was forked they
are the parent's (see EngineThread.forked), and locks may be held for ever by threads that are not
there: who has a lock renews it.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar


class Owner(Protocol):
    """What holds native state in a thread: an EngineThread."""

    def close(self) -> None: ...

    def forked(self) -> None: ...


T = TypeVar("T")
log = logging.getLogger("lorakit")
_OWNERS: weakref.WeakSet[Owner] = weakref.WeakSet()
_RENEWED: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def watch(owner: Owner) -> None:
    """Close it when the process ends, and tell it of a fork."""
    _OWNERS.add(owner)


def leave_to_parent(owned: object) -> None:
    """Keep an object of the parent's for ever: freeing it would wait for threads that it lacks."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


def on_fork(owner: T, renew: Callable[[T], object]) -> None:
    """Call a function with an object in every child that is forked while the object lives."""
    _RENEWED[owner] = renew


def _close_all() -> None:
    for owner in list(_OWNERS):
        try:
            owner.close()
        except Exception:
            log.exception("an engine could not be closed")


def _forked() -> None:
    for owner in list(_OWNERS):
        owner.forked()
    for renewed, renew in list(_RENEWED.items()):
        renew(renewed)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
