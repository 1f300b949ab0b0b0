"""Room in a base for the tokens that its adapters bring, made before an engine opens it.

An adapter with added tokens replaces the whole vocabulary by a larger one, which no engine can do
to a base of fewer rows. So the base is written once more, into the cache, with rows for them and
with the adapter's tokenizer and templates; the adapter is applied to that as any other. Looked at
are adapters in memory and on this machine: others are fetched once, by whoever loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.errors import LorakitError
from lorakit.formats import read_adapter
from lorakit.merge.brought import brought_by, differing
from lorakit.merge.cached import MergedAdapter, merged_base
from lorakit.merge.grown import more_rows, rows_of
from lorakit.model.adapter_config import AdapterConfig
from lorakit.sources import OnProgress


def with_room(
    base: Base, choices: Sequence[Adapter | AdapterConfig], progress: OnProgress | None
) -> tuple[Base, list[str]]:
    """The base, grown where the adapters bring more tokens, and what to say of it.

    Adapters that cannot be read are left to whoever loads them. Raises what `merged_base` raises.
    """
    if base.is_gguf or base.exported is not None:
        return base, []
    adapters: list[tuple[Adapter, float]] = []
    folders: list[Path] = []
    for choice in choices:
        if isinstance(choice, Adapter):
            adapters.append((choice, 1.0))
        elif (place := _here(choice)) is not None:
            with suppress(LorakitError):
                adapters.append((read_adapter(place, base.decoder, **choice.reading), 1.0))
                folders.append(place)
    rows = rows_of(adapters, base.decoder)
    if rows == base.decoder.vocabulary:
        return base, []
    brought, differ = brought_by(folders)
    larger = more_rows(base, rows)
    said = MergedAdapter(name="rows", source=f"{rows} tokens", scale=1.0, digest=larger.digest)
    found = merged_base(base, [(larger, said)], progress, brought)
    notes = [f"the vocabulary grew from {base.decoder.vocabulary} to {rows} tokens", differ]
    if own := ", ".join(differing(base.path, brought)):
        notes.append(f"the adapter's own, in place of the base's: {own}")
    return found, [note for note in notes if note]


def _here(choice: AdapterConfig) -> Path | None:
    try:
        place = Path(choice.path).expanduser()
        return place if choice.source in ("auto", "local") and place.exists() else None
    except (OSError, ValueError, RuntimeError):  # what is no path at all
        return None
