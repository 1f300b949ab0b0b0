"""The only code that fetches: a reference in, a local path out.

A reference is a path, an https:// URL of a file or a folder, or hf:org/repo[@revision][/subfolder].
URLs go into lorakit's cache by content; the Hub's client keeps its own. Nothing is printed: who
wants to know how far it is gives `progress`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorakit.errors import ParameterError, SourceError
from lorakit.sources.bundle import BUNDLES, Kind, collect
from lorakit.sources.download import fetch_file, fetch_one, not_cached
from lorakit.sources.hub import fetch_hub
from lorakit.sources.limits import MAX_BYTES, Limits, OnProgress, Progress, is_offline
from lorakit.sources.reference import (
    IN_FOLDER,
    Hub,
    Local,
    Source,
    Url,
    default_name,
    describe,
    parse,
    shown,
)
from lorakit.sources.store import Store, safe_name

__all__ = [
    "Hub", "Kind", "Limits", "Local", "OnProgress", "Progress", "Source", "Url", "default_name",
    "describe", "fetch", "is_offline", "parse",
]  # fmt: skip


def fetch(
    reference: str | os.PathLike[str],
    *,
    kind: Kind = "adapter",
    source: Source = "auto",
    offline: bool | None = None,
    progress: OnProgress | None = None,
    limits: Limits | None = None,
) -> Path:
    """A local path for a reference; what is there already is not fetched again.

    kind: "adapter" or "base", which says what files a folder has. source: of which kind the
    reference must be; "auto" reads it off. offline: use only what is here; None asks
    LORAKIT_OFFLINE and HF_HUB_OFFLINE. progress: called with a Progress before each piece; what it
    raises ends the download, and a later one goes on from there.
    A path comes back as it is, whether or not there is anything.
    Raises ParameterError (no such kind of reference), SourceError (source_not_found,
    source_denied, source_unreachable, source_too_large, source_mismatch, offline), WriteError.
    """
    if kind not in BUNDLES:
        raise ParameterError(f"kind is {' or '.join(BUNDLES)}, not {kind!r}")
    parsed = parse(reference, source)
    if isinstance(parsed, Local):
        return parsed.path
    limits = limits or Limits()
    options: dict[str, Any] = {
        "offline": is_offline(offline),
        "limits": limits,
        "max_bytes": MAX_BYTES[kind] if limits.max_bytes is None else limits.max_bytes,
        "progress": progress,
    }
    fetch_from: Callable[..., Path] = fetch_hub if isinstance(parsed, Hub) else _fetch_url
    return fetch_from(parsed, kind, **options)


def _fetch_url(reference: Url, kind: Kind, **options: Any) -> Path:
    """A file of the cache, or a folder of them."""
    name = reference.file
    if name is not None and not name.lower().endswith(IN_FOLDER):
        blob = fetch_one(reference, **options)
        return Store().tree(shown(reference.url), {name: blob}) / safe_name(name)
    return _fetch_folder(reference, kind, **options)


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
    return Store().tree(shown(reference.folder), files)
