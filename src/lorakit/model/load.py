"""Turns a reference into an adapter in memory, ready for a runtime: fetched and read."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.check import without_unchanged
from lorakit.errors import FormatError, ParameterError
from lorakit.formats import read_adapter
from lorakit.formats.folder import member, read_object
from lorakit.model.adapter_config import AdapterRef
from lorakit.sources import default_name, describe
from lorakit.values import finite, shown

Fetch = Callable[[AdapterRef], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """An adapter in memory. source: its reference, safe to show. default_scale: what its user
    scale is where the user says none."""

    adapter: Adapter
    source: str
    default_scale: float = 1.0


def ready(reference: AdapterRef, base: Base, fetch: Fetch) -> Ready:
    """An adapter with what is known of it. Whether it fits the base is checked by the caller.

    Raises what `fetch` raises, and FormatError.
    """
    default = 1.0
    if isinstance(reference, Adapter):
        adapter, source = reference, "memory"
    else:
        place = fetch(reference)
        default = default_scale(place)
        adapter = read_adapter(place, base.decoder)
        adapter = adapter.in_memory()  # independent of its file from here on
        source = describe(reference)
    adapter = without_unchanged(adapter, base)
    adapter.digest  # noqa: B018  # computed here, not on the engine's thread
    return Ready(adapter=adapter, source=source, default_scale=default)


def default_scale(place: Path) -> float:
    """What the lorakit.json of an adapter's folder says; 1 where there is none, or no folder.

    Raises FormatError, and SourceError where it cannot be read.
    """
    path = member(place, "lorakit.json") if place.is_dir() else None
    scale = 1.0 if path is None else read_object(path).get("default_scale", 1.0)
    if not finite(scale):
        raise FormatError(
            f"{path}: default_scale must be a finite number, found {shown(scale)}",
            hint="mend it, or remove the file: the adapter works without",
        )
    return float(scale)


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
