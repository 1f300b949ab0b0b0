"""llama.cpp's C functions, ready for use, and its log.

Loaded on first use. All functions that the engine calls are looked up at once, so that an
unsuitable library fails at open, with their names, and not during a request.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from lorakit.engines.llama.binding.libraries import VARIABLE, Chosen, choose_library
from lorakit.engines.llama.binding.library import bind_llama, bind_mtmd

log = logging.getLogger("lorakit.llama")
_WARN, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level; a continued line has no level of its own
_local = threading.local()


@cache
def chosen() -> Chosen:
    """The library that is used, loaded. Raises MissingExtraError and EngineError."""
    with _short_waits():
        found = choose_library()
    if not found.known:
        log.warning(
            "%s was not tested with lorakit: llama.cpp %s, named by %s",
            found.library.path, found.library.version or "of an unknown version", VARIABLE,
        )  # fmt: skip
    return found


@cache
def llama() -> Any:
    """The functions of llama.h and ggml.h as attributes, with the types that they need.

    Raises MissingExtraError if no library is installed, EngineError if it does not fit.
    """
    api = bind_llama(chosen().library)
    _install_log(api)
    api.llama_backend_init()
    return api


@contextmanager
def _short_waits() -> Iterator[None]:
    """Make OpenMP's threads spin for about 20 us at a barrier, and then sleep.

    GCC's OpenMP reads the setting when it is loaded, clang's (in ms) at the first step. ggml has a
    barrier after each operation. On a busy machine a spinning thread takes the core that the thread
    it waits for needs: with GCC's default of 4 ms a token took a hundred times as long beside two
    busy loops on two cores. Without any spinning a token takes twice as long on an idle machine.
    The user's own settings are kept.
    """
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # else ggml sets 200
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "2000"
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)  # another thread may have been here too


@cache
def mtmd() -> Any:
    """The functions of mtmd.h, for images. Raises as `llama` does."""
    llama()
    api = bind_mtmd(chosen().library)
    api.mtmd_helper_log_set(_KEPT[0], None)
    return api


def _install_log(api: Any) -> None:
    """Install one callback for the whole process: the native logger is global."""

    def receive(level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace")
        lines = getattr(_local, "lines", None)
        if level == _CONTINUED:
            level = getattr(_local, "level", 0)
        _local.level = level
        if lines is not None and level in (_WARN, _ERROR):
            lines.append((level, line))
        elif level == _ERROR:
            log.error(line.rstrip())

    callback = api.llama_log_callback(receive)
    api.llama_log_set(callback, None)
    _KEPT.append(callback)  # the native side holds no reference


_KEPT: list[Any] = []


class captured_log:  # noqa: N801  # used as a function; a class costs a third of a generator
    """Collects what native calls of this thread log, to be attached to an error."""

    __slots__ = ("_before", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = []
        self._before: list[tuple[int, str]] | None = None

    def __enter__(self) -> captured_log:
        self._before = getattr(_local, "lines", None)
        _local.lines = self.entries
        return self

    def __exit__(self, *_: object) -> None:
        _local.lines = self._before
        if self._before is not None:
            self._before.extend(self.entries)

    @property
    def reasons(self) -> list[str]:
        """The logged errors, or if there are none the warnings: single lines, no duplicates."""
        for level in (_ERROR, _WARN):
            text = "".join(line for found, line in self.entries if found == level)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return list(dict.fromkeys(lines))[:20]
        return []


class Abort:
    """A flag that stops a running decode. Thread-safe.

    llama.cpp calls its abort callback once per node of the graph; a Python function would take the
    GIL hundreds of times per token. So the callback is the C library's strlen, on a string of one
    byte (abort) or none (go on), and no Python runs.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(_libc().strlen, ctypes.c_void_p)
        self.data = ctypes.cast(self._flag, ctypes.c_void_p)

    def set(self) -> None:
        self._flag[0] = b"\1"

    def clear(self) -> None:
        self._flag[0] = b"\0"

    @property
    def is_set(self) -> bool:
        return self._flag[0] != b"\0"


def _libc() -> Any:
    return ctypes.CDLL("ucrtbase") if hasattr(ctypes, "WinDLL") else ctypes.CDLL(None)
