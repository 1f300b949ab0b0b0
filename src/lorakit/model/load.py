"""Turns a reference into an adapter in memory, ready for a runtime: fetched and read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path

from lorakit.adapter import Adapter, at_scale, in_order
from lorakit.base.folder import Base
from lorakit.check import for_text, without_unchanged
from lorakit.errors import FormatError, ParameterError
from lorakit.formats import read_adapter
from lorakit.formats.folder import member, read_object
from lorakit.model.adapter_config import AdapterConfig, AdapterRef
from lorakit.sources import default_name, describe
from lorakit.values import finite, shown

log = logging.getLogger("lorakit")
Fetch = Callable[[AdapterRef], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """An adapter in memory. source: its reference, safe to show. default_scale: what its user
    scale is where the user says none. place: its file or folder."""

    adapter: Adapter
    source: str
    default_scale: float = 1.0
    place: Path | None = None


def ready(
    reference: AdapterRef | AdapterConfig, base: Base, fetch: Fetch, *, text_alone: bool = True
) -> Ready:
    """An adapter with what is known of it, as it is for this base; errors as of `read_one`.

    text_alone: what is for a part that sees is left out, with a note.
    """
    found = read_one(reference, base, fetch)
    return settled(found, base, text_alone=text_alone)


def read_one(reference: AdapterRef | AdapterConfig, base: Base, fetch: Fetch) -> Ready:
    """An adapter with what is known of it. Whether it fits the base is checked by the caller.

    Of an AdapterConfig, what it says of reading and its absolute scale count. Raises what `fetch`
    raises, and FormatError.
    """
    default, place = 1.0, None
    if isinstance(reference, Adapter):
        adapter, source = reference, "memory"
    else:
        config = reference if isinstance(reference, AdapterConfig) else AdapterConfig(reference)
        place = fetch(config.path)
        default = default_scale(place)
        adapter = read_adapter(place, base.decoder, **config.reading)
        if config.absolute_scale is not None:
            adapter, default = at_scale(adapter, config.absolute_scale), 1.0
        log.info("%s: %s", describe(config.path), in_words(adapter))
        adapter = adapter.in_memory()  # independent of its file from here on
        source = describe(config.path)
    return Ready(adapter=adapter, source=source, default_scale=default, place=place)


def in_words(adapter: Adapter) -> str:
    """What an adapter is, in a line: rank, alpha where its file says one, its modules."""
    ranks = sorted({delta.rank for delta in adapter.deltas})
    scales = sorted({delta.scale for delta in adapter.deltas})
    alphas = sorted({delta.alpha for delta in adapter.deltas if delta.alpha is not None})
    ends = dict.fromkeys(module.rpartition(".")[2] for module in adapter.modules)
    said = [
        _span("rank", ranks),
        _span("alpha", alphas),
        _span("scale", scales),
        f"{len(adapter.modules)} modules ({', '.join(in_order(ends))})" if ends else "",
        ", ".join(sorted(adapter.features)),
        f"{adapter.nbytes:,} bytes",
    ]
    return ", ".join(filter(None, said))


def _span(name: str, values: Sequence[float]) -> str:
    """The values of all modules: one, or the least and the largest."""
    if not values:
        return ""
    ends = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
    return f"{name} {ends}"


def settled(found: Ready, base: Base, *, text_alone: bool = True) -> Ready:
    """What was read, without what the base holds just so, and what cannot act on text."""
    adapter = for_text(found.adapter) if text_alone else found.adapter
    adapter = without_unchanged(adapter, base)
    adapter.digest  # noqa: B018  # computed here, not on the engine's thread
    return replace(found, adapter=adapter)


def is_held(choice: AdapterConfig, held: Container[str]) -> bool:
    """Whether it is one of the adapters in an export, by their names.

    Raises ParameterError where it asks for what an export has fixed.
    """
    if choice.source != "auto" or choice.path not in held:
        return False
    if choice.absolute_scale is not None or choice.reading:
        raise ParameterError(
            f"{choice.path} is in the export, as it was read and at the scale it had then",
            hint="give a scale of 1, or none",
        )
    return True


def own_scale(adapter: Adapter) -> float | None:
    """The scale of all its deltas, alpha / r, where they have one and the same."""
    found = {delta.scale for delta in adapter.deltas}
    return found.pop() if len(found) == 1 else None


def twice_scaled(adapter: Adapter, scale: float | None, name: str) -> str:
    """A warning where a relative scale is just the adapter's own, which it multiplies; or "".

    Elsewhere a scale often is alpha / r: then the number was meant to replace it.
    """
    own = own_scale(adapter)
    if scale is None or own is None or scale == 1 or not isclose(scale, own, rel_tol=1e-6):
        return ""
    return (
        f"{name}: the scale {scale:g} multiplies the file's own alpha / r, which is {own:g} too: "
        f"it acts at {scale * own:g}. If {scale:g} is to be alpha / r, give 1, or an absolute "
        f"scale: absolute_scale={scale:g}, {name}:={scale:g}"
    )


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


def name_of(adapter: AdapterRef | AdapterConfig) -> str:
    """An adapter's default name: the last part of its reference."""
    if isinstance(adapter, AdapterConfig):
        return adapter.name
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
