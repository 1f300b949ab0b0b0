"""Merged bases in the cache: made once for a base, adapters and scales, and found again."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.atomic import write_atomic
from lorakit.base import Base
from lorakit.cache import cache_root, touch
from lorakit.errors import LorakitError, SourceError
from lorakit.merge import companions, merge
from lorakit.sources import OnProgress, Progress
from lorakit.sources.store import MANIFEST, Store, safe_name, writing

VERSION = 2  # of what `merge` writes for the same input


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAdapter:
    """An adapter that is in a model's weights."""

    name: str
    source: str
    scale: float
    digest: str


def merged_base(
    base: Base,
    adapters: Sequence[tuple[Adapter, MergedAdapter]],
    progress: OnProgress | None = None,
) -> Base:
    """The base with adapters at their scales in its weights, in the weights' own dtype.

    Kept in the cache by the base's fingerprint and the files that come along with it, the adapters'
    digests and the scales. Raises what `lorakit.merge.merge` raises, SourceError where the base
    changes meanwhile, and WriteError.
    """
    key = _key(base, [said for _, said in adapters])
    entry = cache_root() / "merged" / key
    folder = entry / safe_name(base.name)
    with Store().lock(f"merged-{key}"):
        if not folder.is_dir():
            source = " + ".join([base.name, *(f"{m.source}:{m.scale:g}" for _, m in adapters)])
            with writing(entry):
                entry.mkdir(parents=True, exist_ok=True)
                manifest = json.dumps({"source": source, "files": {}})
                write_atomic(entry / MANIFEST, manifest.encode())
            _merge(base, adapters, folder, source, progress)
    touch(entry)
    return Base.open(folder)


def _merge(
    base: Base,
    adapters: Sequence[tuple[Adapter, MergedAdapter]],
    folder: Path,
    source: str,
    progress: OnProgress | None,
) -> None:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(source=source, file=f"merging {base.name}", done=done, total=total))

    for abandoned in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):  # it was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    merge(base, [(adapter, said.scale) for adapter, said in adapters], folder, progress=report)
    if not _is_still(base):
        shutil.rmtree(folder, ignore_errors=True)
        raise SourceError(
            f"{base.path} changed while adapters were merged into it", hint="open it again"
        )


def _is_still(base: Base) -> bool:
    """Whether the files on disk are those that were opened, by their size and time."""
    try:
        return Base.open(base.path).fingerprint == base.fingerprint
    except (LorakitError, OSError):
        return False


def _key(base: Base, adapters: Sequence[MergedAdapter]) -> str:
    """Other weights, another tokenizer or template: another key."""
    try:
        along = [(name, hashlib.sha256(content).hexdigest()) for name, content in companions(base)]
    except OSError as error:
        raise SourceError(f"cannot read {base.path}: {error.strerror or error}") from error
    said = [(adapter.digest, adapter.scale) for adapter in adapters]
    parts = [VERSION, base.fingerprint, along, said]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
