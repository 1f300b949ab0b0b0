"""Turns a reference into an adapter in memory, ready for a runtime: fetched and read."""

from __future__ import annotations

from collections.abc import Callable, Container
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
    """An adapter and its source. Whether it fits the base is checked by the caller.

    Raises what `fetch` raises, and FormatError.
    """
    if isinstance(reference, Adapter):
        adapter, source = reference, "memory"
    else:
        adapter = read_adapter(fetch(reference), base.decoder)
        adapter = adapter.in_memory()  # independent of its file from here on
        source = describe(reference)
    adapter = without_unchanged(adapter, base)
    adapter.digest  # noqa: B018  # computed here, not on the engine's thread
    return adapter, source


def name_of(adapter: AdapterRef) -> str:
    """An adapter's default name: the last part of its reference."""
    if isinstance(adapter, Adapter):
        raise ParameterError("an Adapter from memory needs a name", hint='name="..."')
    return default_name(adapter)


def unused_name(name: str, taken: Container[str]) -> str:
    """`name`, or `name-2`, `name-3`, ... if it is taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
