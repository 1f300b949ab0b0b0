"""Run a function in a child process, so that a native crash does not end this one."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import NoReturn

from lorakit.children import obstacle, start, stop
from lorakit.engines.llama.binding.libraries import VARIABLE
from lorakit.engines.llama.binding.trial import SIGILL, contents_of, ending_of, identity_of
from lorakit.engines.llama.native import chosen

PATIENCE = 600.0  # seconds; only a hung process takes longer
REFUSED = 77  # exit status
log = logging.getLogger("lorakit")


class RefusedError(Exception):
    """A child met an error of lorakit's own, which its parent will meet again: nothing ran."""


def refuse() -> NoReturn:
    """In the child: end, and let `run_child` raise RefusedError."""
    os._exit(REFUSED)


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
    Raises RefusedError if the function ended with `refuse`, EngineError where no process starts.
    """
    quiet = {"GGML_NO_BACKTRACE": "1"}  # a backtrace would start a debugger
    same = {VARIABLE: str(chosen().candidate.path)}
    child = start(module, function, *arguments, environment=quiet | same)
    try:
        _, said = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return [f"the process did not end within {PATIENCE:.0f} seconds"]
    finally:
        stop(child)
    if not child.returncode:
        return []
    if child.returncode == REFUSED:
        raise RefusedError
    if ran_illegal([ending := ending_of(child.returncode)]):
        return [ending]
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [Path(line).name for line in lines if "GGML_ASSERT" in line or "what():" in line]
    return reasons or lines[-3:] or [ending]


def library_path() -> Path:
    """The file with llama.cpp's functions that is loaded."""
    return chosen().library.path


def ran_illegal(reasons: Collection[str]) -> bool:
    """Whether a child ended over an instruction of another CPU: no file can cause that."""
    return any(SIGILL in reason for reason in reasons)


def library_identity() -> str:
    """Identifies this build of llama.cpp; preflight results are valid for one build only."""
    return identity_of(chosen().candidate.path)


@cache
def library_digest() -> str:
    """A digest of llama.cpp's libraries; KV is reused only within one build."""
    return contents_of(chosen().candidate.path)
