"""Whether this build's AMX kernels work on this machine.

On a CPU with AMX, builds made with GCC 12 crash at the first step of a quantised model; builds
made with clang do not. The AMX kernels are used only with repacked weights, an option of loading a
model. So a tiny model with repacked weights is run once in a child process, and the outcome is
cached for this library and this CPU.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from lorakit.engines.cpu import cpu_features, cpu_name
from lorakit.engines.llama.child_process import can_start, library_identity, run_child
from lorakit.engines.llama.native import chosen, llama
from lorakit.errors import EngineError
from lorakit.files.cache import Memo

Verdict = Literal["none", "safe", "faulty"]
VERSION = 1
TRIAL = "lorakit.engines.llama.kernel_trial"  # the module that the child runs


def amx_verdict() -> Verdict:
    """none: the build or the CPU has no AMX, so nothing was tried."""
    return _tried() if "AMX_INT8" in system_info() and "amx_int8" in _cpu() else "none"


def system_info() -> str:
    """The features llama.cpp was built with, such as "AVX2 = 1 | REPACK = 1"."""
    llama()  # with its log
    return chosen().library.system_info()


@cache
def _tried() -> Verdict:
    def run() -> str:
        return "faulty" if run_child(TRIAL, "run_kernels") else "safe"

    if not can_start():
        return "faulty"  # the safe assumption: slower, never a crash
    try:
        found = Memo("kernels").get(f"{VERSION} {library_identity()} {_cpu()}", run)
    except EngineError:  # the system starts no process
        return "faulty"
    return "safe" if found == "safe" else "faulty"


@cache
def _cpu() -> str:
    """The CPU's name and features."""
    return " ".join([cpu_name(), *sorted(cpu_features())])
