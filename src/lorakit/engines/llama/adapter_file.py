"""The GGUF file through which llama.cpp loads an adapter, written once to the cache.

llama.cpp loads adapters only from files, aborts the process on some broken ones, and does not check
the weights. So it is given only files that lorakit wrote from an adapter checked against the base;
the cache verifies a file's digest before each use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.grown import rows_of
from lorakit.errors import CapabilityError, UnsupportedError, page
from lorakit.files.cache import cache_root, cached_file
from lorakit.formats.gguf import write_gguf

VERSION = 1  # of the files; raise it when their content changes
MERGED = (
    'merge it as the base is opened: AdapterConfig(path, mode="merge"), or lorakit run --merge; or '
    "open the base's Hugging Face folder: " + page("llama")
)


def require_rows(adapter: Adapter, base: Base) -> None:
    """Raise CapabilityError for an adapter that brings a vocabulary of another size."""
    own, rows = base.decoder.vocabulary, rows_of([(adapter, 1.0)], base.decoder)
    if rows != own:
        raise CapabilityError(
            "llama.cpp cannot give a model other tokens at run time",
            items=[f"the adapter brings a vocabulary of {rows} tokens, the base has {own}"],
            hint=MERGED,
        )


@contextmanager
def native_file(adapter: Adapter, base: Base) -> Iterator[Path]:
    """The adapter's GGUF file (F32) for a base, taken from the cache or written now.

    It exists while the block runs. Raises CapabilityError listing what llama.cpp cannot apply, and
    WriteError if the file cannot be written.
    """
    decoder = base.decoder
    shape = f"{VERSION} {decoder.architecture.gguf} {decoder.heads} {decoder.kv_heads}"
    name = hashlib.sha256(f"{shape} {decoder.tied} {adapter.digest}".encode()).hexdigest()
    path = cache_root() / "llama" / f"{name[:40]}.gguf"
    of = f"{base.name} + adapter {adapter.digest[:12]}"
    with cached_file(path, lambda place: _write(adapter, place, base), of) as file:
        yield file


def _write(adapter: Adapter, path: Path, base: Base) -> None:
    try:
        write_gguf(adapter, path, base.decoder)
    except UnsupportedError as error:
        raise CapabilityError(
            "llama.cpp cannot apply this adapter at run time",
            items=error.items or [error.message],
            hint=MERGED,
        ) from error
