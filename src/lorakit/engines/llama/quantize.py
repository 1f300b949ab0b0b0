"""Quantising a GGUF model with llama.cpp.

It runs in a child process, because the native call cannot be interrupted, and aborts on some broken
files. So Ctrl-C works, and the output appears under its name only when it is complete.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.engines.llama.native import llama
from lorakit.engines.threads import default_threads
from lorakit.errors import (
    EngineError,
    FormatError,
    ParameterError,
    SourceError,
    UnsupportedError,
    WriteError,
)
from lorakit.files.gguf import is_gguf, open_gguf

Progress = Callable[[int, int, str], object]  # tensors done, tensors in all, the current one

# llama_ftype by name, without those that need an importance matrix (IQ1, IQ2, IQ3_XXS, Q2_K_S):
# llama.cpp refuses them without one.
TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16,
    "Q5_1": 9, "Q5_0": 8, "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25,
    "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26, "Q2_K": 10,
    "TQ2_0": 37, "TQ1_0": 36,
}  # fmt: skip
_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
_FALLBACK = re.compile(r"warning: (\S+)\s+- ncols\s+(\d+) not .*?type\s+(\S+?)\).*back to\s+(\S+)")
_REASON = re.compile(r"failed to quantize: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """The result. fallbacks: tensors whose row length is no multiple of the type's block size, each
    as (name, row length, type wanted, type that llama.cpp used)."""

    path: Path
    type: str
    bytes_before: int
    bytes_after: int
    fallbacks: tuple[tuple[str, int, str, str], ...]


def quantize(
    source: Path,
    output: Path,
    *,
    type: str,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write a GGUF model in another type.

    K-quants need row lengths that are multiples of 256. For other tensors llama.cpp falls back to a
    similar type with blocks of 32 (Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, Q2_K and Q3_K: Q4_0); the
    result lists them.

    Raises ParameterError (unknown type: all are listed), SourceError, FormatError (not a GGUF
    file, or a broken one), UnsupportedError (an adapter; a model that is quantised already),
    WriteError (the output exists; the disk is full), EngineError.
    """
    number = _number(type)
    _check_source(source)
    if output.exists():
        raise WriteError(f"{output} exists", hint="remove it, or give another name")
    llama()  # raises MissingExtraError before a process is started
    partial = output.with_name(f".{output.name}.{secrets.token_hex(6)}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        log = _run(source, partial, number, threads or default_threads(), progress)
        _settle(partial, output)
    except OSError as error:
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return Quantized(
        path=output,
        type=type.upper(),
        bytes_before=source.stat().st_size,
        bytes_after=output.stat().st_size,
        fallbacks=tuple(
            (name, int(row), wanted, taken) for name, row, wanted, taken in _FALLBACK.findall(log)
        ),
    )


def _number(name: str) -> int:
    number = TYPES.get(name.upper())
    if number is None:
        raise ParameterError(
            f"unknown type {name!r}",
            items=list(TYPES),
            hint="Q8_0 is nearly exact; Q4_K_M is the usual choice for small devices",
        )
    return number


def _check_source(source: Path) -> None:
    if not source.is_file():
        raise SourceError(f"there is no file {source}")
    if not is_gguf(source):
        raise FormatError(f"{source} is not a GGUF file")
    try:
        values = open_gguf(source).values
    except UnsupportedError:
        return  # it has tensor types that only llama.cpp reads
    kind = values.get("general.type")
    if kind is not None and kind.data == "adapter":
        raise UnsupportedError(
            f"{source} is an adapter, not a model",
            hint="lorakit convert ADAPTER OUT --to gguf --dtype f16 makes a smaller one",
        )


def _run(source: Path, partial: Path, number: int, threads: int, progress: Progress | None) -> str:
    """Run the child process; returns its log."""
    arguments = [str(source), str(partial), str(number), str(threads)]
    child = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import _child; _child()", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    lines: list[str] = []
    try:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if progress and (step := _STEP.search(line)):
                progress(int(step[1]), int(step[2]), step[3])
        code = child.wait()
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    log = "".join(lines)
    if code:
        raise _error(source, log, code)
    return log


def _error(source: Path, log: str, code: int) -> Exception:
    """The error for a failed child process, from its log."""
    found = _REASON.search(log)
    reason = found[1].strip() if found else ""
    if "requantizing" in reason:
        return UnsupportedError(
            f"{source} is already quantised: {reason}",
            hint="start from the F32, F16 or BF16 file: each quantisation adds its own error",
        )
    if "iostream error" in reason or "write" in reason:
        return WriteError("the output could not be written completely", hint="is the disk full?")
    tail = [line.strip() for line in log.splitlines() if line.strip()][-3:]
    return EngineError(
        f"llama.cpp cannot quantise {source}",
        items=[reason] if reason else [*tail, f"its process ended with {code}"],
    )


def _settle(partial: Path, output: Path) -> None:
    """Flush the complete file to the disk and rename it, never over an existing file."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    if output.exists():
        raise WriteError(f"{output} exists")
    partial.replace(output)


def _child() -> None:
    """Runs in the child process: quantises, and writes the log to stdout line by line."""
    source, partial, number, threads = sys.argv[1:]
    api = llama()

    def receive(level: int, text: bytes, _: Any) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    callback = api.llama_log_callback(receive)
    api.llama_log_set(callback, ctypes.c_void_p(0))
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(number), int(threads)
    code = api.llama_model_quantize(os.fsencode(source), os.fsencode(partial), params)
    sys.stdout.flush()
    os._exit(1 if code else 0)  # skip Python's shutdown, in which the callback must not be called
