"""Whether a build suits this CPU: what its kernels need of it, and whether it is the slower one.

It goes by what the build says of itself, such as "CPU : AVX2 = 1 | ", and by what the system says
of the CPU. Nothing is timed, and nothing is refused where the CPU is not known.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection

from lorakit.engines.llama.binding.compiler import compiler_of, gcc_version
from lorakit.engines.llama.binding.library import Library

# By llama.cpp's names: the flags of Linux, each of which says that the CPU has it.
_NEEDS = {
    "AVX": "avx avx2 avx512f", "F16C": "f16c avx2 avx512f", "FMA": "fma avx2 avx512f",
    "BMI2": "bmi2 avx2 avx512f", "AVX2": "avx2 avx512f", "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16", "AMX_INT8": "amx_int8", "NEON": "asimd", "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp", "MATMUL_INT8": "i8mm", "SVE": "sve", "SME": "sme",
}  # fmt: skip
_TOLD = {  # what other systems say at all: cpu.py
    "darwin": ("AVX2", "AVX512", "DOTPROD", "MATMUL_INT8"),
    "win32": ("AVX2", "AVX512", "DOTPROD"),
}
_FAULTY_GCC = 12  # the last whose AMX kernels crash; without them no weights are repacked


def lacking(info: str, cpu: Collection[str]) -> list[str]:
    """What a build was compiled for and this CPU does not have: it would end the process."""
    if not cpu:
        return []
    told = _TOLD.get(sys.platform, _NEEDS)
    built = [name for name in re.findall(r"(\w+) = 1", info) if name in told]
    return [name for name in dict.fromkeys(built) if not {*_NEEDS[name].split()} & {*cpu}]


def misfit(info: str, cpu: Collection[str]) -> str:
    """Why a build cannot run on this CPU; empty if it can, or nobody knows."""
    if absent := lacking(info, cpu):
        return f"compiled for another CPU: this one does not have {', '.join(absent)}"
    return ""


def handicap(library: Library, cpu: Collection[str]) -> str:
    """Why a compiled library is slower than a prebuilt one; empty if nothing tells that it is.

    What is prebuilt for x86 has AVX2 and no AMX.
    """
    info = library.system_info()
    if reason := misfit(info, cpu):
        return reason
    if "amx_int8" in cpu and (gcc := gcc_version(compiler_of(library.path)) or 99) <= _FAULTY_GCC:
        return f"compiled with GCC {gcc}, whose AMX kernels crash on this CPU"
    if "avx2" in cpu and "AVX2 = 1" not in info and set(re.findall(r"(\w+) : ", info)) <= {"CPU"}:
        return "compiled without AVX2, which this CPU has"
    return ""
