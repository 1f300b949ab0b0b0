"""What compiled a library, read from its files: compilers leave their names in what they make."""

from __future__ import annotations

import mmap
import re
from contextlib import suppress
from pathlib import Path

_MARK = re.compile(rb"clang version [\d.]+|GCC: \([^)\0]{0,60}\) [\d.]+")  # in section .comment
_OPENMP = {b"libgomp.so": "GCC, by its libgomp", b"libomp.so": "clang, by its libomp",
           b"VCOMP140.DLL": "MSVC, by its OpenMP"}  # fmt: skip


def compiler_of(library: Path) -> str:
    """The compiler of the kernels, such as "GCC: (Debian 12.2.0-14) 12.2.0"; empty if unknown.

    From the file of the kernels, or of all; from their OpenMP library if the marks were stripped.
    """
    for path in (*sorted(library.parent.glob("*ggml-cpu*")), library):
        with suppress(OSError, ValueError), path.open("rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                marks: list[bytes] = _MARK.findall(content)
                found = {mark.decode("ascii", "replace") for mark in marks}
                if not found:
                    found = {name for mark, name in _OPENMP.items() if content.find(mark) >= 0}
            if found:
                return max(found, key=_order)
    return ""


def gcc_version(compiler: str) -> int | None:
    """GCC's main version; None for another compiler."""
    found = re.fullmatch(r"GCC: \(.*\) (\d+)[\d.]*", compiler)
    return int(found[1]) if found else None


def _order(mark: str) -> tuple[bool, tuple[int, ...]]:
    """clang's libraries hold GCC's start-up files too, and GCC's those of an older one."""
    return mark.startswith("clang"), tuple(map(int, re.findall(r"\d+", mark.rpartition(" ")[2])))
