"""The library of llama.cpp that tests run with; without one they are skipped."""

import os
import signal
import sys

import pytest

from lorakit.engines.llama.child_process import library_path
from lorakit.engines.llama.native import chosen
from lorakit.errors import MissingExtraError


def need_llama() -> None:
    """In a test, a fixture, or at the top of a file. A library that does not fit is an error."""
    try:
        chosen()
    except MissingExtraError:
        reason = "the llama.cpp engine needs lorakit[llama]"
        pytest.skip(reason, allow_module_level=True)


def end_with_library() -> None:
    """In a child process: end with the path of its library."""
    raise SystemExit(str(library_path()))


def run_illegal_instruction() -> None:
    """In a child process: end as a kernel for another CPU does."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.ExitProcess(0xC000001D)
    os.kill(os.getpid(), signal.SIGILL)
