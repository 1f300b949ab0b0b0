"""A projector tried once in a process of its own, and remembered.

llama.cpp checks a projector's numbers against its tensors only when it computes, and then ends the
whole process. So the first use of a file loads it and encodes one picture in a child process.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

from lorakit.cache import Memo
from lorakit.engines.llama.model import load_model
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.vision import Vision, check_projector
from lorakit.errors import FormatError, LorakitError

VERSION = 1  # of the rehearsal; another one is not satisfied with what this one saw
SIDE = 64  # pixels of the picture


def rehearse(projector: Path, model: Path, threads: int) -> None:
    """Raises SourceError and FormatError, the latter for a file that ends the process."""
    check_projector(projector)
    key = "\0".join([str(VERSION), _identity(projector), _identity(model)])
    Memo("projectors").get(key, lambda: _survive(projector, model, threads))


def _survive(projector: Path, model: Path, threads: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import _child; _child()",
         str(projector), str(model), str(threads)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "GGML_NO_BACKTRACE": "1",  # which would start a debugger
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        lines = lines or [f"the process ended with {done.returncode}"]
        raise FormatError(
            f"{projector} is broken: llama.cpp ends the process over it",
            items=[Path(line).name if "GGML_ASSERT" in line else line for line in lines[-3:]],
            hint="download it again, or use the mmproj file that belongs to the model",
        )
    return "fine"


def _child() -> None:
    """Load and encode. A refusal is no failure here: the parent meets it again and raises it."""
    projector, model, threads = sys.argv[1:]
    try:
        vocabulary = load_model(Path(model), LlamaOptions(), vocabulary_only=True)
        Vision(vocabulary, Path(projector), threads=int(threads)).encode(_picture())
    except LorakitError:
        pass
    os._exit(0)


def _picture() -> bytes:
    """A grey square, as a BMP file."""
    pixels = bytes([128]) * (3 * SIDE * SIDE)
    head = struct.pack("<2sIII", b"BM", 54 + len(pixels), 0, 54)
    return head + struct.pack("<IiiHH24x", 40, SIDE, SIDE, 1, 24) + pixels


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
