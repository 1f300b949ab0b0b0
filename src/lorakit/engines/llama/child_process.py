"""Run a function in a child process, so that a native crash does not end this one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

from lorakit.engines.llama.native import llama
from lorakit.files.cache import digest_of

PATIENCE = 600.0  # seconds; only a hung process takes longer


def can_start() -> bool:
    """Whether sys.executable is Python; in a frozen program it is the program itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def run_child(module: str, function: str, *arguments: str) -> list[str]:
    """Call `function(*arguments)` of a module in a new process.

    Returns an empty list on success, else the reasons: its last log lines, or its signal.
    """
    code = f"import sys; from {module} import {function}; {function}(*sys.argv[1:])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "GGML_NO_BACKTRACE": "1",  # a backtrace would start a debugger
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"the process did not end within {PATIENCE:.0f} seconds"]
    if not done.returncode:
        return []
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reasons = [Path(line).name for line in lines if "GGML_ASSERT" in line or "what():" in line]
    return reasons or lines[-3:] or [_ending(done.returncode)]


def _ending(code: int) -> str:
    if code >= 0:
        return f"the process ended with {code}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"


def library_path() -> Path:
    """The libllama that is loaded, or the Python package if its path is unknown."""
    api = llama()
    path = Path(getattr(api._lib, "_name", "") or api.__file__)
    return path if path.is_file() else Path(api.__file__)


def library_identity() -> str:
    """Identifies this build of llama.cpp; preflight results are valid for one build only."""
    return file_identity(library_path())


@cache
def library_digest() -> str:
    """A digest of llama.cpp's libraries; KV is reused only within one build."""
    path = library_path().resolve()
    parts = sorted({path, *(found.resolve() for found in path.parent.glob("*ggml*"))})
    digests = [f"{part.name} {digest_of(part)}" for part in parts if part.is_file()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def file_identity(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
