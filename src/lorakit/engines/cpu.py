"""What this CPU can do, by Linux's names: avx2, avx512f, amx_int8, asimddp, i8mm.

From what the system says of it: /proc/cpuinfo, macOS's sysctl, Windows's IsProcessorFeaturePresent,
which tells of a few alone. An empty set means that it is not known, not that there is nothing.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

_INTEL = ("machdep.cpu.features", "machdep.cpu.leaf7_features")  # lists, as "FMA AVX1.0"
_APPLE = {"hw.optional.AdvSIMD": "asimd", "hw.optional.arm.FEAT_DotProd": "asimddp",
          "hw.optional.arm.FEAT_I8MM": "i8mm", "hw.optional.arm.FEAT_BF16": "bf16"}  # fmt: skip
_WINDOWS = {19: "asimd", 37: "sse4_1", 40: "avx2", 41: "avx512f", 43: "asimddp"}  # winnt.h, PF_...


@cache
def cpu_features() -> frozenset[str]:
    """The features of this machine's CPU; empty if they are not known."""
    try:
        return _OF.get(sys.platform, frozenset)()
    except (AttributeError, OSError):  # a system that has no such function
        return frozenset()


@cache
def cpu_name() -> str:
    """The model of this machine's CPU; empty if it is not known."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string").decode("ascii", "replace")
    return _first("model name") or platform.processor()


def _linux() -> frozenset[str]:
    return frozenset((_first("flags") or _first("Features")).split())


def _first(name: str) -> str:
    """The first value of that name in /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        label, _, value = line.partition(":")
        if label.strip() == name:
            return value.strip()
    return ""


def _macos() -> frozenset[str]:
    words = " ".join(_sysctl(name).decode("ascii", "replace") for name in _INTEL).lower().split()
    known = [flag for name, flag in _APPLE.items() if any(_sysctl(name))]
    return frozenset(words) | frozenset(known)


def _sysctl(name: str) -> bytes:
    """A value as stored; empty if there is no such name."""
    system: Any = ctypes.CDLL(None)
    size = ctypes.c_size_t(4096)
    buffer = ctypes.create_string_buffer(size.value)
    if system.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return b""
    return buffer.raw[: size.value].rstrip(b"\0")


def _windows() -> frozenset[str]:
    present = ctypes.windll.kernel32.IsProcessorFeaturePresent  # type: ignore[attr-defined]
    return frozenset(flag for number, flag in _WINDOWS.items() if present(number))


_OF = {"linux": _linux, "darwin": _macos, "win32": _windows}
