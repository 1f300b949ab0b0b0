"""A reference becomes an adapter that is ready for an engine: fetched, read, in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.check import without_unchanged
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.model.adapter_config import AdapterRef
from lorakit.sources import default_name, describe

Fetch = Callable[[AdapterRef], Path]


def ready(reference: AdapterRef, base: Base, fetch: Fetch) -> tuple[Adapter, str]:
    """An adapter, and where it came from. Whether it fits is checked by whoever applies it.

    Raises what `fetch` raises, and FormatError.
    """
    if isinstance(reference, Adapter):
        adapter, source = reference, "memory"
    else:
        adapter = read_adapter(fetch(reference), base.decoder)
        adapter = adapter.in_memory()  # whatever happens to its file from here on
        source = describe(reference)
    adapter = without_unchanged(adapter, base)
    adapter.digest  # noqa: B018  # computed here, so that the engine's thread need not
    return adapter, source


def name_of(adapter: AdapterRef) -> str:
    """What an adapter is called where nobody says: the last part of its reference."""
    if isinstance(adapter, Adapter):
        raise ParameterError("an Adapter from memory needs a name", hint='name="..."')
    return default_name(adapter)
