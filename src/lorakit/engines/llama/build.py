"""Describes the library of llama.cpp that is used, and how well its kernels suit this CPU."""

from __future__ import annotations

import re
from collections.abc import Collection

from lorakit.engines.cpu import cpu_features
from lorakit.engines.llama.binding.compiler import compiler_of
from lorakit.engines.llama.binding.libraries import VARIABLE
from lorakit.engines.llama.binding.suits import lacking
from lorakit.engines.llama.kernels import Verdict, amx_verdict, system_info
from lorakit.engines.llama.native import chosen, mtmd
from lorakit.errors import EngineError, page

_AMX = {
    "none": "not in this build or not on this CPU",
    "safe": "tried, works",
    "faulty": "this build's AMX kernels crash on this CPU; they are not used",
}
# What kernels are written for: its name in llama.cpp's report, and in Linux's list.
_KERNELS = {
    "AVX2": "avx2", "AVX_VNNI": "avx_vnni", "AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16", "AMX_INT8": "amx_int8", "NEON": "asimd", "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm", "SVE": "sve",
}  # fmt: skip
COMPILE = f"a library compiled on this machine would use them: {page('llama')}#install"


def describe_build() -> dict[str, str]:
    """Rows for `lorakit doctor`. Raises MissingExtraError and EngineError as `llama` does."""
    info, verdict, found = system_info(), amx_verdict(), chosen()
    library, said = found.library, found.candidate
    rows = {
        "state": f"ready, {said}" if said.package else f"ready, the one that {VARIABLE} names",
        "library": str(library.path),
        "llama.cpp": f"{library.version or 'unknown'}, {found.known or 'not tested with lorakit'}",
        "built for": " ".join(re.findall(r"(\w+) = 1", info)) or "unknown",
        "compiler": compiler_of(library.path) or "unknown",
        "AMX": _AMX[verdict],
        "kernels": kernels_for(info, cpu_features(), verdict),
        "images": _images(),
    }
    return {**rows, "not used": "; ".join(found.passed_over)} if found.passed_over else rows


def kernels_for(info: str, cpu: Collection[str], verdict: Verdict) -> str:
    """What of this CPU the build's kernels use, and what they could."""
    used = [name for name in _KERNELS if f"{name} = 1" in info]
    unused = [name for name, flag in _KERNELS.items() if flag in cpu and name not in used]
    uses = f"for {', '.join(used)}" if used else "for no vector instructions, which is slow"
    if absent := lacking(info, cpu):
        return f"{uses}; this CPU does not have {', '.join(absent)}: it was compiled for another"
    if not cpu:
        return f"{uses}; what else this CPU has is not known"
    if verdict == "faulty":
        return f"{uses}, without AMX; clang's or a later GCC's build can use it"
    if unused:
        return f"{uses}; this CPU also has {', '.join(unused)}: {COMPILE}"
    return f"{uses}: all that this CPU has"


def _images() -> str:
    try:
        mtmd()
    except EngineError as error:
        return f"no: {error.message} ({'; '.join(error.items[:3])})"
    return "yes"
