"""A library that the user names is loaded in a child process first: it may crash as it is loaded.

A library runs code of its own then: one old build of xllamacpp crashed where tokenizers had been
imported before. What passed is remembered, so each file is tried once.
"""

from __future__ import annotations

import logging
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from lorakit.children import start, stop
from lorakit.engines.llama.binding.library import Library, bind_llama, bind_mtmd
from lorakit.errors import EngineError
from lorakit.files.cache import Memo

VERSION = 1
PATIENCE = 60.0  # seconds
log = logging.getLogger("lorakit.llama")


def require_harmless(path: Path) -> None:
    """Raises EngineError for a library that crashes a process which loads it."""

    def run() -> str:
        if reason := _ended(path):
            raise EngineError(
                f"{path} crashes when it is loaded: {reason}",
                hint="name another build of llama.cpp, or none",
            )
        return "fine"

    Memo("libraries").get(f"{VERSION} {file_identity(path)}", run)


def file_identity(path: Path) -> str:
    """Tells a file from another, and from itself before it was changed."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _ended(path: Path) -> str:
    """How a child process that loaded it crashed; empty if it did not, or none can be started."""
    try:
        child = start(__name__, "load", str(path), stderr=subprocess.DEVNULL)
    except EngineError as error:
        log.warning("%s is not tried in a child process before it is used: %s", path, error.message)
        return ""
    try:
        child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"it was not loaded within {PATIENCE:.0f} seconds"
    finally:
        stop(child)
    code = child.returncode  # a signal on POSIX, a large number on Windows
    return f"the process ended with {code}" if code < 0 or code > 255 else ""


def load(path: str) -> None:
    """In the child: load it beside what an engine's process has loaded, and look at its structs."""
    import tokenizers  # noqa: F401

    with suppress(OSError, EngineError):  # which the parent meets again
        library = Library(Path(path))
        bind_llama(library).llama_backend_init()
        bind_mtmd(library)
    os._exit(0)
