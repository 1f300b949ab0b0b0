"""An adapter as the file that llama.cpp loads, written once into the cache by our own writer.

llama.cpp takes no adapter from memory and aborts the process on some files. Only files that
lorakit itself wrote, from an adapter that was checked against the base, ever reach it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base import Base
from lorakit.cache import cache_root
from lorakit.errors import CapabilityError, UnsupportedError
from lorakit.formats.gguf import write_gguf

VERSION = 1  # of the files; a change of what is written must not meet old ones


def native_file(adapter: Adapter, base: Base) -> Path:
    """The adapter's GGUF file for a base, from the cache or written now; F32, about its own size.

    Raises CapabilityError listing what llama.cpp cannot apply, and WriteError.
    """
    decoder = base.decoder
    shape = f"{VERSION} {decoder.architecture.gguf} {decoder.heads} {decoder.kv_heads}"
    name = hashlib.sha256(f"{shape} {decoder.tied} {adapter.digest}".encode()).hexdigest()
    path = cache_root() / "llama" / f"{name[:40]}.gguf"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_gguf(adapter, path, decoder)
    except UnsupportedError as error:
        raise CapabilityError(
            "llama.cpp cannot apply this adapter at run time",
            items=error.items or [error.message],
            hint="merge it into the base's Hugging Face folder, or open that folder: docs/llama.md",
        ) from error
    return path
