"""A URL of a file or a folder: what belongs to it, each from its own URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorakit.errors import SourceError
from lorakit.files.holding import hold
from lorakit.sources.bundle import Kind, collect, files_with
from lorakit.sources.download import fetch_file, fetch_one, not_cached
from lorakit.sources.reference import IN_FOLDER, Url, shown
from lorakit.sources.store import Store, safe_name


def fetch_url(reference: Url, kind: Kind, **options: Any) -> Path:
    """A file of the cache, or a folder of them."""
    name = reference.file
    if name is not None and not name.lower().endswith(IN_FOLDER):
        return _fetch_file(reference, name, kind, **options)
    return _fetch_folder(reference, kind, **options)


def _fetch_file(reference: Url, name: str, kind: Kind, *, max_bytes: int, **options: Any) -> Path:
    """A file, and the other parts of a base whose first it is; #sha256= is of the file alone."""
    left, blobs = max_bytes, {}
    for each in files_with(kind, name):
        part = reference if each == name else Url(url=reference.beside(each))
        blob = blobs[safe_name(each)] = fetch_one(part, max_bytes=left, **options)
        left -= blob.stat().st_size
    return _tree(shown(reference.url), blobs, kind) / safe_name(name)


def _tree(source: str, files: dict[str, Path], kind: Kind) -> Path:
    """The files as a folder; a base's are mapped while it is open, an adapter's are copied."""
    path = Store().tree(source, files)
    if kind == "base":
        hold(path)
    return path


def _fetch_folder(
    reference: Url, kind: Kind, *, max_bytes: int, offline: bool, **options: Any
) -> Path:
    """Fetch the files that a folder of this kind has, each from its own URL."""
    left = max_bytes

    def get(name: str) -> Path | None:
        nonlocal left
        pinned = reference.sha256 if name == reference.file else None
        path = fetch_file(
            reference.folder + name, sha256=pinned, max_bytes=left, offline=offline, **options
        )
        left -= 0 if path is None else path.stat().st_size
        return path

    try:
        files = collect(kind, get, shown(reference.folder))
    except SourceError as error:
        if offline and error.code == "source_not_found":
            raise not_cached(shown(reference.folder)) from error
        raise
    if reference.sha256 and reference.file not in files:
        raise SourceError(
            f"{shown(reference.url)} is not a file that was used here",
            code="source_mismatch",
            hint=f"#sha256= was not checked; used: {', '.join(files)}",
        )
    return _tree(shown(reference.folder), files, kind)
