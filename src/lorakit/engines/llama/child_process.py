"""Run a function in a child process, so that a native crash does not end this one."""

from __future__ import annotations

import hashlib
import logging
import signal
import subprocess
from functools import cache
from pathlib import Path

from lorakit.children import is_frozen, obstacle, start, stop
from lorakit.engines.llama.binding.libraries import VARIABLE
from lorakit.engines.llama.binding.trial import file_identity
from lorakit.engines.llama.native import chosen
from lorakit.files.cache import digest_of

PATIENCE = 600.0  # seconds; only a hung process takes longer
log = logging.getLogger("lorakit")


def can_start() -> bool:
    """Whether a child process can be started; the log says why not, once."""
    reason = obstacle()
    if reason:
        _warn(reason)
    return not reason


@cache
def _warn(reason: str) -> None:
    log.warning("files are not tried in a child process before they are used: %s", reason)


def run_child(module: str, function: str, *arguments: str) -> list[str]:
    """Call `function(*arguments)` of a module in a new process, with the library of this one.

    Returns an empty list on success, else the reasons: its last log lines, or its signal.
    Raises EngineError where the process cannot be started.
    """
    quiet = {"GGML_NO_BACKTRACE": "1"}  # a backtrace would start a debugger
    same = {VARIABLE: str(library_path())}
    child = start(module, function, *arguments, environment=quiet | same)
    try:
        _, said = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return [f"the process did not end within {PATIENCE:.0f} seconds"]
    finally:
        stop(child)
    if not child.returncode:
        return []
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [Path(line).name for line in lines if "GGML_ASSERT" in line or "what():" in line]
    return reasons or lines[-3:] or [_ending(child.returncode)]


def _ending(code: int) -> str:
    if code >= 0:  # Windows writes its own in hexadecimal
        return f"the process ended with {code if code < 1 << 16 else hex(code)}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"


def library_path() -> Path:
    """The file with llama.cpp's functions that is loaded."""
    return chosen().library.path


def library_identity() -> str:
    """Identifies this build of llama.cpp; preflight results are valid for one build only.

    A frozen program may unpack itself to another folder each time.
    """
    return library_digest() if is_frozen() else file_identity(library_path())


@cache
def library_digest() -> str:
    """A digest of llama.cpp's libraries; KV is reused only within one build."""
    path = library_path().resolve()
    parts = sorted({path, *(found.resolve() for found in path.parent.glob("*ggml*"))})
    digests = [f"{part.name} {digest_of(part)}" for part in parts if part.is_file()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
