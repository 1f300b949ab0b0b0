"""Child processes that run one function: of what may crash, or cannot be interrupted.

A child is Python where there is one, else this very program, if it is frozen and called
`freeze_support` before anything else. No other program is ever started: it would run as itself a
second time. A child says that it began, so that nothing else is taken for one. What it writes is
read as it comes, so that it never waits for a reader.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from threading import Event, Thread
from typing import IO

from lorakit.errors import EngineError, page

FLAG = "--lorakit-child"  # before the module, the function and its arguments of a frozen child
VARIABLE = "LORAKIT_CHILD"  # set beside it: an argument alone, which a stranger may pass, is none
BEGUN = b"lorakit child begun\n"
PATIENCE = 120.0  # seconds in which a child has to begin
GRACE = 2.0  # seconds for the last words of a child whose own children hold its pipes open
# The lorakit of the parent, whichever comes first in its path; typing before, which could be beside
_CODE = """
import json, sys, typing
home, path = json.loads(sys.argv.pop(1))
sys.path[:] = [home, *path]
from lorakit.children import main
sys.path[:] = path
main(sys.argv[1:])
"""
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
        if len(sys.argv) < 4 or not sys.argv[2].startswith("lorakit."):
            sys.exit(f"{FLAG} takes a module of lorakit's and a function, not {sys.argv[2:]}")
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


class Child:
    """A process, and what it has written, which threads read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._began = Event()  # or never will
        self._said, self._faults = bytearray(), bytearray()
        pipes = ((process.stdout, self._said), (process.stderr, self._faults))
        self._readers = [
            Thread(target=self._read, args=pair, name="lorakit child", daemon=True)
            for pair in pipes
            if pair[0] is not None
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[bytes], text: bytearray) -> None:
        with pipe:
            while part := os.read(pipe.fileno(), 1 << 16):
                text += part
                if text is self._said and not self._began.is_set() and BEGUN in text:
                    self._began.set()
        if text is self._said:
            self._began.set()

    @property
    def returncode(self) -> int:
        """What it ended with, once it has."""
        return self.process.wait()

    def began(self, timeout: float) -> bool:
        """Wait until it has said so, or cannot any more."""
        if self._began.wait(timeout) and BEGUN not in self._said:
            with suppress(subprocess.TimeoutExpired):  # its own ending says more than a kill
                self.process.wait(GRACE)
        return BEGUN in self._said

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it has ended: what it wrote since it began, and its errors.

        Raises subprocess.TimeoutExpired.
        """
        self.process.wait(timeout)
        for reader in self._readers:
            reader.join(GRACE)  # which closes the pipe
        said = self._said.partition(BEGUN)
        return _text(said[2] if said[1] else said[0]), _text(self._faults)


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def start(
    module: str,
    function: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> Child:
    """Start `function(*arguments)` of a module in a child process, and wait until it has begun.

    Raises EngineError where there is an `obstacle`, the system refuses, or what was started does
    not say that it has begun.
    """
    if reason := obstacle():
        raise _not_started(reason)
    variables = {**os.environ, **(environment or {})}
    if is_frozen():
        command = [sys.executable, FLAG]
        variables[VARIABLE] = "1"
    else:
        command = [_python() or "", *_flags(), "-c", _CODE, json.dumps(_paths())]
        given = variables.get("PYTHONPATH", "").split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(filter(os.path.isabs, given))
    try:
        process = subprocess.Popen(
            [*command, module, function, *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would show one
        )
    except OSError as error:
        raise _not_started(error.strerror or str(error)) from error
    try:
        child = Child(process)
        began = child.began(PATIENCE)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if not began:
        stop(child)
        lines = [line.strip() for line in "\n".join(child.communicate()).splitlines()]
        raise _not_started(
            "; ".join([*filter(None, lines)][-3:]) or f"it ended with {child.returncode}"
        )
    return child


def _flags() -> list[str]:
    """The options of this Python that say what it loads as it starts, and how it reads names."""
    flags = sys.flags
    options = {
        "-I": flags.isolated,
        "-E": flags.ignore_environment,
        "-s": flags.no_user_site,
        "-S": flags.no_site,
    }
    return ["-P", f"-Xutf8={flags.utf8_mode}", *(name for name, given in options.items() if given)]


def _paths() -> tuple[str, list[str]]:
    """The folder that holds this lorakit, and where a child looks for modules: where this one does.

    A relative name is the folder that this process took it for, and never the working folder of
    now. The empty one can be where lorakit and what it needs came from.
    """
    home = str(Path(__file__).absolute().parents[1])
    found: list[str] = []
    for entry in sys.path:
        if not isinstance(entry, str):  # Python passes over it too
            continue
        if not entry or Path(entry).is_absolute():
            found.append(entry)
        elif finder := sys.path_importer_cache.get(entry):
            found += [folder for folder in [getattr(finder, "path", None)] if folder]
    if os.path.normpath(home) in map(os.path.normpath, filter(None, found)):
        return home, [*filter(None, found)]
    path = [entry or home for entry in found]
    return home, path if home in path else [*path, home]


def stop(child: Child) -> None:
    """End a child, if it has not ended, and close its pipes."""
    child.process.kill()
    child.communicate()


def _not_started(reason: str) -> EngineError:
    return EngineError(
        f"no child process can be started: {reason}",
        hint=f"{page('services')} says what a frozen program and a sandbox have to allow",
    )


# In the child.


def main(arguments: list[str]) -> None:
    """Say that the child has begun, then call the function that it is for."""
    _crash_quietly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    with suppress(OSError):  # a program without standard output cannot say it
        os.write(1, BEGUN)
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
