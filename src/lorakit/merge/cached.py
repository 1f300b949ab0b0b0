"""Merged bases in the cache: made once for a base, adapters and scales, and found again.

A folder becomes a folder, and a GGUF file one file, whatever parts it came in.
A merged base is used only if its files have the digests that were recorded when it was made; a
damaged one is merged again. Where the cache has no room for it, it lives in a temporary folder, and
as long as the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base, open_gguf_base
from lorakit.base.grown import VOCABULARY, grown, rows_of
from lorakit.check import require_fit
from lorakit.errors import LorakitError, SourceError, WriteError
from lorakit.files.atomic import new_folder, sweep, write_atomic
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.files.cache import blocks_digest_of, cache_root, in_spare_place, sweep_cache, touch
from lorakit.files.gguf_parts import whole_name
from lorakit.files.holding import hold
from lorakit.formats.brought import Files
from lorakit.merge import companions, merge
from lorakit.merge.gguf.file import MergedFile, merged_file, require_known
from lorakit.sources import OnProgress, Progress
from lorakit.sources.store import MANIFEST, Store, safe_name, writing

log = logging.getLogger("lorakit")
VERSION = 3  # of what `merge` writes for the same input
MAX_MANIFEST = 16 << 20  # bytes
_elsewhere: dict[str, Any] = {}  # by key: temporary folders, which go when the process ends


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAdapter:
    """An adapter that is in a model's weights."""

    name: str
    source: str  # its reference, safe to show
    scale: float  # what the user multiplied its own effective scale by
    digest: str  # see Adapter.digest


def merged_base(
    base: Base,
    adapters: Sequence[tuple[Adapter, MergedAdapter]],
    progress: OnProgress | None = None,
    brought: Files = (),
) -> Base:
    """The base with adapters at their scales in its weights, in the weights' own dtype; of a GGUF
    file as merge/gguf/file.py says.

    Kept in the cache by the base's fingerprint and the files that come along with it, the adapters'
    digests and the scales. brought: as in `merge`. Raises what `lorakit.merge.merge` raises,
    SourceError where the base changes meanwhile, and WriteError.
    """
    sweep_cache()
    key = _key(base, [said for _, said in adapters], brought)
    entry = cache_root() / "merged" / key
    name = safe_name(base.name)
    source = " + ".join([base.name, *(f"{m.source}:{m.scale:g}" for _, m in adapters)])
    make = partial(_merge, base, adapters, source=source, progress=progress, brought=brought)
    try:
        with Store().lock(f"merged-{key}"):
            if not _whole(entry, name):
                _make(entry, name, make, source)
    except WriteError as error:
        log.warning("the merged base %s cannot be kept: %s", source, error.message)
        return _opened(_elsewhere_made(key, name, make))
    touch(entry)
    hold(entry)
    return _opened(entry / name)


def require_mergeable(base: Base) -> None:
    """Raise what `merged_base` would for any adapter: CapabilityError for an export, and
    UnsupportedError for a GGUF file of which only llama.cpp knows what its tensors are."""
    if base.is_gguf:
        require_known(base)
    else:
        base.require_weights()


def require_fit_merged(adapter: Adapter, base: Base) -> None:
    """Raise MismatchError for an adapter that does not fit, though the vocabulary may grow."""
    if base.is_gguf:
        rows = rows_of([(adapter, 1.0)], base.decoder)
        require_fit(adapter, describe({**base.config, VOCABULARY: rows}))
    else:
        require_fit(adapter, grown(base, [(adapter, 1.0)]))


def merge_notes(
    base: Base, adapters: Sequence[tuple[Adapter, MergedAdapter]], brought: Files = ()
) -> tuple[str, ...]:
    """What merging into a GGUF file does beside adding deltas; of a folder its caller says it."""
    if not base.is_gguf or not adapters:
        return ()
    names = ", ".join(f"{said.source} at {said.scale:g}" for _, said in adapters)
    plan = merged_file(base, [(adapter, said.scale) for adapter, said in adapters], brought)
    first = f"{names}: in the weights of a copy of {base.name} in the cache, at a fixed scale"
    return (first, *plan.notes)


def _opened(folder: Path) -> Base:
    file = folder / whole_name(folder.name)
    return open_gguf_base(file) if file.is_file() else Base.open(folder)


def _make(entry: Path, name: str, make: Callable[[Path], object], source: str) -> None:
    """Merge into an entry, and record the digests of what was written."""
    folder = entry / name
    if folder.exists():
        log.warning("the merged base %s is not what was written, and is made again", source)
    with writing(entry):
        entry.mkdir(parents=True, exist_ok=True)
        sweep(entry)
        shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    with writing(entry):
        digests = {path.name: blocks_digest_of(path) for path in folder.iterdir()}
        manifest = {"source": source, "files": {}, "digests": digests}
        write_atomic(entry / MANIFEST, json.dumps(manifest).encode())


def _elsewhere_made(key: str, name: str, make: Callable[[Path], object]) -> Path:
    """The merged base in a temporary folder, made once in a process. Raises WriteError."""
    if key not in _elsewhere or not _is_there(Path(_elsewhere[key].name) / name):
        _elsewhere[key] = in_spare_place(name, make)
    return Path(_elsewhere[key].name) / name


def _is_there(folder: Path) -> bool:
    with suppress(OSError):
        return any(folder.iterdir())
    return False


def _whole(entry: Path, name: str) -> bool:
    """Whether an entry's files are those that were written, each with its digest."""
    try:
        digests = parse_json(read_bounded(entry / MANIFEST, MAX_MANIFEST) or b"")["digests"]
        found = {path.name: blocks_digest_of(path) for path in (entry / name).iterdir()}
    except (OSError, ValueError, TypeError, KeyError, SourceError):
        return False
    return isinstance(digests, Mapping) and bool(found) and found == digests


def _merge(
    base: Base,
    adapters: Sequence[tuple[Adapter, MergedAdapter]],
    folder: Path,
    *,
    source: str,
    progress: OnProgress | None,
    brought: Files,
) -> None:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(source=source, file=f"merging {base.name}", done=done, total=total))

    scaled = [(adapter, said.scale) for adapter, said in adapters]
    if base.is_gguf:
        _merge_file(merged_file(base, scaled, brought), folder, report)
    else:
        merge(base, scaled, folder, progress=report, brought=brought)
    if not _is_still(base):
        shutil.rmtree(folder, ignore_errors=True)
        raise SourceError(
            f"{base.path} changed while adapters were merged into it", hint="open it again"
        )


def _merge_file(merged: MergedFile, folder: Path, progress: Callable[[int, int], None]) -> None:
    try:
        with new_folder(folder) as made:
            merged.write(made / whole_name(folder.name), progress)
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error


def _is_still(base: Base) -> bool:
    """Whether the files on disk are those that were opened, by their size and time."""
    try:
        return open_base(base.path).fingerprint == base.fingerprint
    except (LorakitError, OSError):
        return False


def _key(base: Base, adapters: Sequence[MergedAdapter], brought: Files) -> str:
    """Other weights, another tokenizer or template: another key."""
    try:
        files = [*(() if base.is_gguf else companions(base)), *brought]
        along = [(name, hashlib.sha256(content).hexdigest()) for name, content in files]
    except OSError as error:
        raise SourceError(f"cannot read {base.path}: {error.strerror or error}") from error
    said = [(adapter.digest, adapter.scale) for adapter in adapters]
    parts = [VERSION, base.fingerprint, along, said]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
