"""Room in a base for the tokens that its adapters bring, made before an engine opens it.

An adapter with added tokens replaces the whole vocabulary by a larger one, which no engine can do
to a base of fewer rows. So the base is written once more, into the cache, with rows for them, and
with the adapter's tokenizer and templates; the adapter is applied to that as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Get = Callable[..., Path]  # `fetch` with the model's options


def with_room(
    base: Base, choices: Sequence[Adapter | AdapterConfig], get: Get, progress: OnProgress | None
) -> tuple[Base, list[str]]:
    """The base, grown where the adapters bring more tokens, and what to say of it.

    Adapters that cannot be read are left to whoever loads them. Raises what `merged_base` raises.
    """
    if base.is_gguf or base.exported is not None:
        return base, []
    adapters, folders = [], []
    for choice in choices:
        try:
            adapters.append((_read(choice, base, get), 1.0))
            if isinstance(choice, AdapterConfig):
                folders.append(get(choice.path, source=choice.source))
        except LorakitError:
            continue
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


def _read(choice: Adapter | AdapterConfig, base: Base, get: Get) -> Adapter:
    """The adapter, its arrays mapped: only their shapes are looked at."""
    if isinstance(choice, Adapter):
        return choice
    return read_adapter(get(choice.path, source=choice.source), base.decoder, **choice.reading)
