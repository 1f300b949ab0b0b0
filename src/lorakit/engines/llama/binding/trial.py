"""A library is loaded in a child process first: a broken one may crash as it is loaded.

A library runs code of its own then: one old build of xllamacpp crashed where tokenizers had been
imported before, and one that was cut off crashes anyone. What passed is remembered for these files,
so they are tried once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from lorakit.children import is_frozen, start, stop
from lorakit.engines.llama.binding.library import Library, bind_llama, bind_mtmd
from lorakit.errors import EngineError
from lorakit.files.cache import Memo, digest_of

VERSION = 2
PATIENCE = 60.0  # seconds
SIGILL = "SIGILL"  # it ran an instruction that the CPU does not have
_ILLEGAL = 0xC000001D  # STATUS_ILLEGAL_INSTRUCTION
_PART = re.compile(r"(lib)?(llama|ggml|mtmd)([-_.].*)?\.(so|dylib|dll)(\.[\d.]+)?")
log = logging.getLogger("lorakit.llama")


def require_harmless(path: Path) -> None:
    """Raises OSError for a library that crashes a process which loads it."""

    def run() -> str:
        if reason := _ended(path):
            raise OSError(f"it crashes when it is loaded: {reason}")
        return "fine"

    with suppress(_UntriedError):
        Memo("libraries").get(f"{VERSION} {identity_of(path)}", run)


class _UntriedError(Exception):
    """No child can be started: it is used, and not remembered as one that passed."""


def identity_of(library: Path) -> str:
    """Tells a library, all its parts, from another, and from itself before one was changed.

    A frozen program may unpack itself to another folder each time: there the contents tell.
    """
    return contents_of(library) if is_frozen() else "\n".join(map(_state_of, parts_of(library)))


def contents_of(library: Path) -> str:
    """A digest of all parts of a library."""
    digests = [f"{part.name} {digest_of(part)}" for part in parts_of(library)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def parts_of(library: Path) -> list[Path]:
    """The file with llama.cpp's functions, and what may belong to it in its folder."""
    target = library.resolve()
    beside = {
        part.resolve()
        for folder in {library.parent, target.parent}
        for part in folder.iterdir()
        if _PART.fullmatch(part.name) and part.is_file()
    }
    return sorted(beside | {target})


def _state_of(path: Path) -> str:
    return f"{file_identity(path)} {path.stat().st_ctime_ns}"


def file_identity(path: Path) -> str:
    """Tells a file from another, and from itself before it was changed."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _ended(path: Path) -> str:
    """How a child process that loaded it crashed; empty if it did not. Raises _UntriedError."""
    try:
        child = start(__name__, "load", str(path), stderr=subprocess.DEVNULL)
    except EngineError as error:
        log.warning("%s is not tried in a child process before it is used: %s", path, error.message)
        raise _UntriedError from error
    try:
        child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"it was not loaded within {PATIENCE:.0f} seconds"
    finally:
        stop(child)
    return ending_of(child.returncode) if child.returncode else ""


def ending_of(code: int) -> str:
    """How a process ended, by its exit status."""
    if code == _ILLEGAL:  # Windows's name for it is not what others call it
        return f"the process was ended by {SIGILL}"
    if code >= 0:  # Windows writes its own in hexadecimal
        return f"the process ended with {code if code < 1 << 16 else hex(code)}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"


def load(path: str) -> None:
    """In the child: load it beside what an engine's process has loaded, and look at its structs."""
    import tokenizers  # noqa: F401

    with suppress(OSError, EngineError):  # which the parent meets again
        library = Library(Path(path))
        library.silence()
        library.load_backends()
        library.system_info()
        bind_llama(library).llama_backend_init()
        bind_mtmd(library)
    os._exit(0)
