"""Describes this build of llama.cpp: version, compiler, and whether a faster one is possible."""

from __future__ import annotations

import importlib.metadata
import mmap
import re
from contextlib import suppress
from pathlib import Path

from lorakit.engines.llama.child_process import library_path
from lorakit.engines.llama.kernels import amx_verdict, system_info

REBUILD = "CC=clang CXX=clang++ pip install --no-cache-dir --force-reinstall 'lorakit[llama]'"
VECTORS = ("AVX2", "AVX512", "NEON", "SVE", "VSX", "VXE", "RISCV_V", "WASM_SIMD")
_AMX = {
    "none": "not in this build or not on this CPU",
    "safe": "tried, works",
    "faulty": "this build's AMX kernels crash on this CPU; they are not used",
}
# What compilers leave in a library's .comment section.
_COMPILER = re.compile(rb"(clang version [\d.]+|GCC: \([^)\0]{0,60}\) [\d.]+)")
_OPENMP = {b"libgomp.so": "GCC, by its libgomp", b"libomp.so": "clang, by its libomp"}


def describe_build() -> dict[str, str]:
    """Rows for `lorakit doctor`. Raises MissingExtraError and EngineError as `llama` does."""
    path, info, verdict = library_path(), system_info(), amx_verdict()
    compiler = _compiler(path)
    slow = slowness(info, compiler, verdict)
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("llama_cpp_python")
        return _rows(f"ready, llama-cpp-python {version}", path, info, compiler, verdict, slow)
    return _rows("ready", path, info, compiler, verdict, slow)


def _rows(
    state: str, path: Path, info: str, compiler: str, verdict: str, slow: str
) -> dict[str, str]:
    features = re.findall(r"(\w+) = 1", info)
    rows = {
        "state": state,
        "library": str(path),
        "built for": " ".join(features) or "unknown",
        "compiler": compiler or "unknown",
        "AMX": _AMX[verdict],
    }
    return {**rows, "slow": f"{slow}: {REBUILD}"} if slow else rows


def slowness(info: str, compiler: str, verdict: str) -> str:
    """Why this build is slower than it could be; empty if no reason is known."""
    if not any(f"{name} = 1" in info for name in VECTORS):
        return "it was built without the CPU's vector instructions"
    if verdict == "faulty":
        return "it cannot use AMX"
    if compiler.startswith("GCC"):
        return "clang's build decodes 1.4 to 2 times as fast"
    return ""


def _compiler(library: Path) -> str:
    """The compiler, read from the kernel libraries; from their OpenMP library if stripped."""
    for path in (*sorted(library.parent.glob("*ggml-cpu*")), library):
        with suppress(OSError, ValueError), path.open("rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = sorted(set(_COMPILER.findall(content)))
                tells = [name for mark, name in _OPENMP.items() if content.find(mark) >= 0]
            if found:  # clang's libraries hold GCC's start-up files too
                return bytes(found[-1]).decode("ascii", "replace")
            if tells:
                return tells[0]
    return ""
