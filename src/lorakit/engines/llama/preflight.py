"""Preflight: a file is loaded and run once in a child process before this one uses it.

llama.cpp checks parts of a file only while computing, and then aborts the process: a projector
whose sizes do not match its tensors, a vocabulary with a duplicate token, a norm in float16. The
result is cached, so each model and each projector is tried once.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.engines.llama.binding.libraries import VARIABLE
from lorakit.engines.llama.binding.trial import file_identity
from lorakit.engines.llama.child_process import (
    RefusedError,
    can_start,
    library_identity,
    library_path,
    ran_illegal,
    refuse,
    run_child,
)
from lorakit.engines.llama.context import Context, Piece
from lorakit.engines.llama.model import load_model
from lorakit.engines.llama.native import Abort, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.pace import Pace
from lorakit.engines.llama.tokenizer import LlamaTokenizer
from lorakit.engines.llama.vision import Vision, check_projector
from lorakit.engines.threads import default_threads
from lorakit.errors import EngineError, FormatError, LorakitError, page
from lorakit.files.cache import Memo
from lorakit.files.gguf_parts import gguf_parts

VERSION = 3  # of the preflight; results of other versions do not count
SIDE = 64  # pixels of the test image
TOKENS = 8  # of the test prompt


def preflight_model(path: Path, options: LlamaOptions) -> None:
    """Load a model with its tokenizer and run a few tokens, in a child process.

    Skipped if the options turn it off, if the file passed before, or if no child process can be
    started. Raises FormatError for a file that crashes llama.cpp, EngineError for a library that
    this CPU cannot run.
    """
    if not options.preflight or not can_start():
        return
    key = [str(VERSION), library_identity(), *map(file_identity, gguf_parts(path))]
    key += [options.kv_type, options.flash_attention]

    def run() -> str:
        reasons = run_child(__name__, "_run_model", str(path), *key[-2:])
        if reasons:
            _require_own_cpu(reasons)
            raise FormatError(
                f"{path} is broken: llama.cpp crashes when it runs it",
                items=reasons,
                hint="download it again, or convert it with llama.cpp's own converter",
            )
        return "fine"

    with suppress(RefusedError):
        Memo("models").get("\0".join(key), run)


def preflight_projector(projector: Path, model: Path, threads: int) -> None:
    """Encode an image with a projector in a child process.

    Raises SourceError, FormatError for a file that is no projector or crashes llama.cpp, and
    EngineError for a library that this CPU cannot run.
    """
    check_projector(projector)
    if not can_start():
        return

    def run() -> str:
        reasons = run_child(__name__, "_encode", str(projector), str(model), str(threads))
        if reasons:
            _require_own_cpu(reasons)
            raise FormatError(
                f"{projector} is broken: llama.cpp crashes when it encodes an image with it",
                items=reasons,
                hint="download it again, or use the mmproj file that belongs to the model",
            )
        return "fine"

    key = [str(VERSION), library_identity(), file_identity(projector)]
    key += map(file_identity, gguf_parts(model))
    with suppress(RefusedError):
        Memo("projectors").get("\0".join(key), run)


def _require_own_cpu(reasons: list[str]) -> None:
    if ran_illegal(reasons):
        raise EngineError(
            f"{library_path()} was compiled for another CPU: it runs instructions that this one "
            "does not have",
            items=reasons,
            hint=f"name another with {VARIABLE}, or compile it on this machine ({page('llama')})",
        )


# In the child. A LorakitError is met again by the parent, which raises it: what did not run here is
# not remembered as what did.


def _run_model(path: str, kv_type: Any, flash_attention: Any) -> None:
    try:
        options = LlamaOptions(kv_type=kv_type, flash_attention=flash_attention, repack=False)
        _generate(Path(path), options)
    except LorakitError:
        refuse()
    os._exit(0)


def _generate(path: Path, options: LlamaOptions) -> None:
    tokenizer = LlamaTokenizer(path)
    ids = tokenizer.encode(_every_byte(), special=True)
    tokenizer.decode(ids)
    model = load_model(path, options)
    pace = Pace(default_threads())
    context = Context(model, cells=1, slots=2, options=options, pace=pace, outputs=2, abort=Abort())
    slot, result = context.open(), np.empty((1, context.width), np.float32)
    prompt = np.asarray(ids[:TOKENS] or [0], np.int64)
    context.decode([Piece(slot, 0, prompt, [len(prompt) - 1])], [result])
    context.decode([Piece(slot, len(prompt), prompt[:1], [0])], [result])
    context.free()
    llama().llama_model_free(model)


def _every_byte() -> str:
    """A text whose UTF-8 encoding contains every byte that UTF-8 uses."""
    points = [*range(1, 0xC0), *range(0xC0, 0x800, 64), *range(0x800, 0xD800, 4096)]
    return "".join(map(chr, [*points, 0xE000, 0xF000, *range(0x10000, 0x110000, 0x40000)]))


def _encode(projector: str, model: str, threads: str) -> None:
    try:
        vocabulary = load_model(Path(model), LlamaOptions(), vocabulary_only=True)
        Vision(vocabulary, Path(projector), threads=int(threads)).encode(_test_image())
    except LorakitError:
        refuse()
    os._exit(0)


def _test_image() -> bytes:
    """A grey square, as a BMP file."""
    pixels = bytes([128]) * (3 * SIDE * SIDE)
    head = struct.pack("<2sIII", b"BM", 54 + len(pixels), 0, 54)
    return head + struct.pack("<IiiHH24x", 40, SIDE, SIDE, 1, 24) + pixels
