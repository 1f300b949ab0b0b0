"""What the end of a process, and a fork of it, mean for the threads that own engines.

At the end of a process engines are closed while Python still runs. In a child that was forked they
are the parent's: see EngineThread.forked.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import weakref
from typing import Protocol


class Owner(Protocol):
    """An EngineThread."""

    def close(self) -> None: ...

    def forked(self) -> None: ...


_OWNERS: weakref.WeakSet[Owner] = weakref.WeakSet()


def watch(owner: Owner) -> None:
    """Close it when the process ends, and tell it of a fork."""
    _OWNERS.add(owner)


def leave_to_parent(owned: object) -> None:
    """Keep an object of the parent's for ever: freeing it would wait for threads that it lacks."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


def _close_all() -> None:
    for owner in list(_OWNERS):
        owner.close()


def _forked() -> None:
    for owner in list(_OWNERS):
        owner.forked()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
