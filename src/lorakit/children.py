"""Child processes that run one function: of what may crash, or cannot be interrupted.

A child is Python where there is one, else this very program, if it is frozen and called
`freeze_support` before anything else. No other program is ever started: it would run as itself a
second time. A child says that it began, so that nothing else is taken for one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from threading import Timer

from lorakit.errors import EngineError

FLAG = "--lorakit-child"  # before the module, the function and its arguments of a frozen child
VARIABLE = "LORAKIT_CHILD"  # set beside it: an argument alone, which a stranger may pass, is none
BEGUN = "lorakit child begun"
PATIENCE = 120.0  # seconds in which a child has to begin
_CODE = "from lorakit.children import main; import sys; main(sys.argv[1:])"
_PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(-dbg|_d)?(\.exe)?", re.IGNORECASE)
_supported = False  # whether this program would run a child of its own kind


def freeze_support() -> None:
    """For programs that are frozen: call it first, before any window or server is opened.

    In a child it runs what the child is for, and ends the process; else it notes that children may
    be started. The hook for PyInstaller does so by itself. Elsewhere it has no effect.
    """
    global _supported
    called = os.environ.pop(VARIABLE, "") and sys.argv[1:2] == [FLAG] and is_frozen()
    if called:  # whatever it is called for, the program itself does not run
        if not sys.argv[2].startswith("lorakit."):
            sys.exit(f"{sys.argv[2]} is not lorakit's")
        main(sys.argv[2:])
        sys.exit(0)
    _supported = True


def is_frozen() -> bool:
    """Whether the program was packed together with its Python (PyInstaller, Nuitka and others)."""
    return bool(getattr(sys, "frozen", False)) or "__compiled__" in globals()


def obstacle() -> str:
    """Why no child can be started here; empty where one can."""
    if not is_frozen():
        return "" if _python() else f"there is no Python beside {sys.executable or 'this program'}"
    if VARIABLE in os.environ:  # a child that opens a model before it looks what it is for
        return "this program calls lorakit.children.freeze_support() too late"
    if not _supported:
        return "this program is frozen and does not call lorakit.children.freeze_support()"
    return ""


def _python() -> str | None:
    """This Python as a program. In a program that embeds Python, sys.executable is that program."""
    names = ("python.exe",) if os.name == "nt" else (
        f"bin/python{sys.version_info.major}.{sys.version_info.minor}", "bin/python3"
    )  # fmt: skip
    places = [Path(sys.executable or "."), *(Path(sys.exec_prefix, name) for name in names)]
    return next(
        (str(path) for path in places if _PYTHON.fullmatch(path.name) and path.is_file()), None
    )


def start(
    module: str,
    function: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start `function(*arguments)` of a module in a child process, and wait until it has begun.

    Its standard output is a pipe of UTF-8 text. Raises EngineError where there is an `obstacle`,
    the system refuses, or what was started does not say that it has begun.
    """
    if reason := obstacle():
        raise _not_started(reason)
    variables = {**os.environ, **(environment or {})}
    if is_frozen():
        command = [sys.executable, FLAG]
        variables[VARIABLE] = "1"
    else:
        command = [_python() or "", "-P", "-c", _CODE]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        child = subprocess.Popen(
            [*command, module, function, *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would show one
        )
    except OSError as error:
        raise _not_started(error.strerror or str(error)) from error
    try:
        _require_begun(child)
    except BaseException:
        stop(child)
        raise
    return child


def _require_begun(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    said = []
    timer = Timer(PATIENCE, child.kill)
    timer.start()
    try:
        for line in child.stdout:
            if line.strip() == BEGUN:
                return
            said.append(line)
    finally:
        timer.cancel()
    if child.stderr is not None:
        said.append(child.stderr.read())
    lines = [line.strip() for line in "".join(said).splitlines() if line.strip()]
    raise _not_started("; ".join(lines[-3:]) or f"it ended with {child.wait()}")


def stop(child: subprocess.Popen[str]) -> None:
    """End a child, if it has not ended, and close its pipes."""
    child.kill()
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


def _not_started(reason: str) -> EngineError:
    return EngineError(
        f"no child process can be started: {reason}",
        hint="docs/services.md says what a frozen program and a sandbox have to allow",
    )


# In the child.


def main(arguments: list[str]) -> None:
    """Say that the child has begun, then call the function that it is for."""
    _crash_quietly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    with suppress(OSError):  # a program without standard output cannot say it
        os.write(1, f"{BEGUN}\n".encode())
    module, function, *rest = arguments
    getattr(import_module(module), function)(*rest)


def _crash_quietly() -> None:
    """No dump of memory, and no window that waits for somebody to close it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.SetErrorMode(msvcrt.SEM_FAILCRITICALERRORS | msvcrt.SEM_NOGPFAULTERRORBOX)
    else:
        import resource

        with suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])
            )
