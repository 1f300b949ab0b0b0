"""An adapter as the file that llama.cpp loads, written once into the cache by our own writer.

llama.cpp takes no adapter from memory, aborts the process on some files, and computes with whatever
weights it finds. Only bytes that lorakit itself wrote, from an adapter that was checked against the
base, ever reach it: the cache compares a file with its digest before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.errors import CapabilityError, UnsupportedError
from lorakit.files.cache import cache_root, cached_file
from lorakit.formats.gguf import write_gguf

VERSION = 1  # of the files; a change of what is written must not meet old ones


@contextmanager
def native_file(adapter: Adapter, base: Base) -> Iterator[Path]:
    """The adapter's GGUF file for a base, while the block runs; F32, about its own size.

    It is from the cache or written now. Raises CapabilityError listing what llama.cpp cannot apply,
    and WriteError where there is no place for it at all.
    """
    decoder = base.decoder
    shape = f"{VERSION} {decoder.architecture.gguf} {decoder.heads} {decoder.kv_heads}"
    name = hashlib.sha256(f"{shape} {decoder.tied} {adapter.digest}".encode()).hexdigest()
    path = cache_root() / "llama" / f"{name[:40]}.gguf"
    with cached_file(path, lambda place: _write(adapter, place, base)) as file:
        yield file


def _write(adapter: Adapter, path: Path, base: Base) -> None:
    try:
        write_gguf(adapter, path, base.decoder)
    except UnsupportedError as error:
        raise CapabilityError(
            "llama.cpp cannot apply this adapter at run time",
            items=error.items or [error.message],
            hint="merge it into the base's Hugging Face folder, or open that folder: docs/llama.md",
        ) from error
