"""The adapters that a base is opened with: read once, before the engine, and merged if asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.errors import LorakitError
from lorakit.formats.brought import Files
from lorakit.merge.brought import brought_by
from lorakit.merge.cached import (
    MergedAdapter,
    merge_notes,
    merged_base,
    require_fit_merged,
    require_mergeable,
)
from lorakit.model.adapter_config import MERGED, AdapterConfig, AdapterRef, ModelWarning
from lorakit.model.load import Ready, is_held, read_one, settled
from lorakit.model.own_text import OwnText, own_text
from lorakit.model.remarks import remarks, survived, warned
from lorakit.model.settings import Wanted, within
from lorakit.sources import OnProgress, Source

Choice = Adapter | AdapterConfig
Read = tuple[Choice, Ready | None]  # None: an export holds it
Get = Callable[..., Path]  # `fetch` with this model's options


def read_all(wanted: Wanted, base: Base, get: Get) -> tuple[list[Read], list[ModelWarning]]:
    """The adapters, each fetched and read once, and warnings for those that failed and may."""
    found: list[Read] = []
    warnings: list[ModelWarning] = []
    held: set[str] = set()
    for choice in wanted.adapters:
        try:
            name = _held(choice, base, held)
            if name:
                held.add(name)
                found.append((choice, None))
            else:
                source = "auto" if isinstance(choice, Adapter) else choice.source
                there = partial(_get_from, wanted.folder, get, source)
                found.append((choice, read_one(choice, base, there)))
        except LorakitError as error:
            if isinstance(choice, Adapter):
                raise
            warnings.append(survived(choice, error))
    return found, warnings


def _get_from(folder: Path | None, get: Get, source: Source, reference: AdapterRef) -> Path:
    """An adapter, whose path may be relative to the folder of a settings file."""
    assert not isinstance(reference, Adapter)
    place = reference if folder is None else within(folder, reference, source)
    return get(place, source=source)


def _held(choice: Choice, base: Base, taken: Collection[str]) -> str:
    """The name of the adapter in an export that this one is; ""."""
    if isinstance(choice, Adapter) or choice.path in taken or not is_held(choice, base.held):
        return ""
    return str(choice.path)


def text_of(base: Base, places: Sequence[Path]) -> tuple[OwnText, Files]:
    """What is used of the adapters' tokenizers and templates, and the files of a base with it."""
    text = own_text(base, places)
    if text.tokenizer is None and text.templates is None:
        return text, ()
    return text, brought_by(places)[0]


def places_of(found: Sequence[Read]) -> list[Path]:
    """Of the adapters whose tokenizer and template may be used."""
    return [
        ready.place
        for choice, ready in found
        if ready is not None
        and ready.place is not None
        and isinstance(choice, AdapterConfig)
        and choice.text == "own"
    ]


def merged_into(
    base: Base, adapters: Sequence[Read], progress: OnProgress | None, brought: Files
) -> tuple[Base, list[Read], tuple[MergedAdapter, ...], list[ModelWarning]]:
    """The base with adapters of mode "merge" merged into it, and the other adapters."""
    wanted: list[tuple[AdapterConfig, Ready]] = []
    rest: list[Read] = []
    for choice, ready in adapters:
        if isinstance(choice, AdapterConfig) and choice.mode == "merge" and ready is not None:
            wanted.append((choice, settled(ready, base)))
        else:
            rest.append((choice, ready))
    if wanted:
        require_mergeable(base)
        if base.is_gguf:
            brought, _ = brought_by(places_of(wanted))
    found: list[tuple[AdapterConfig, Adapter, MergedAdapter]] = []
    warnings: list[ModelWarning] = []
    for config, ready in wanted:
        try:
            require_fit_merged(ready.adapter, base)
        except LorakitError as error:
            warnings.append(survived(config, error))
        else:
            found.append((config, ready.adapter, _merged(config, ready)))
            warnings += remarks(config, ready.adapter)
    try:
        pairs = [(adapter, about) for _, adapter, about in found]
        merged = merged_base(base, pairs, progress, brought) if found else base
        warnings += warned(merge_notes(base, pairs, brought), code=MERGED)
    except LorakitError as error:  # all of them failed together
        warnings += [survived(config, error) for config, _, _ in found]
        return base, rest, (), warnings
    return merged, rest, tuple(about for _, about in pairs), warnings


def _merged(config: AdapterConfig, found: Ready) -> MergedAdapter:
    scale = found.default_scale if config.scale is None else config.scale
    return MergedAdapter(
        name=config.name, source=found.source, scale=float(scale), digest=found.adapter.digest
    )
