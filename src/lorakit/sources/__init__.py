"""The only code that fetches: a reference in, a local path out.

A reference is a path, an https:// URL of a file or a folder, or hf:org/repo[@revision][/subfolder].
URLs go into lorakit's cache by content; the Hub's client keeps its own. Nothing is printed: who
wants to know how far it is gives `progress`.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from lorakit.errors import ParameterError
from lorakit.files.cache import cache_limit, sweep_cache
from lorakit.sources.bundle import BUNDLES, Kind
from lorakit.sources.limits import (
    MAX_BYTES,
    Counted,
    Limits,
    OnProgress,
    Progress,
    is_offline,
)
from lorakit.sources.reference import (
    Hub,
    Local,
    Source,
    Url,
    default_name,
    describe,
    parse,
)
from lorakit.values import among, shown

__all__ = [
    "Hub", "Kind", "Limits", "Local", "OnProgress", "Progress", "Source", "Url", "default_name",
    "describe", "fetch", "is_offline", "parse",
]  # fmt: skip

log = logging.getLogger("lorakit")


def fetch(
    reference: str | os.PathLike[str],
    *,
    kind: Kind = "adapter",
    source: Source = "auto",
    offline: bool | None = None,
    progress: OnProgress | None = None,
    limits: Limits | None = None,
    allow_private: bool = False,
) -> Path:
    """A local path for a reference; what is there already is not fetched again.

    kind: "adapter" or "base", which says what files a folder has. source: of which kind the
    reference must be; "auto" reads it off. offline: use only what is here; None asks
    LORAKIT_OFFLINE and HF_HUB_OFFLINE. progress: called with a Progress before each piece; what it
    raises ends the download, and a later one goes on from there. allow_private: let a URL be of a
    machine of a private network; one of this very machine is always allowed.
    A path comes back as it is, whether or not there is anything.
    The cache is kept to its limit, where it has one (`prune.keep_limit`).
    Raises ParameterError (no such kind of reference, no such limit), SourceError (source_not_found,
    source_denied, source_unreachable, source_too_large, source_mismatch, offline), WriteError.
    """
    if not among(kind, BUNDLES):
        raise ParameterError(f"kind is {' or '.join(BUNDLES)}, not {shown(kind)}")
    parsed = parse(reference, source)
    if isinstance(parsed, Local):
        return parsed.path
    name, counted, begin = describe(reference, source), Counted(progress), time.monotonic()
    log.info("fetching %s", name)
    path = _fetched(parsed, kind, offline, counted, limits, allow_private)
    said = f"{counted.bytes:,} bytes" if counted.bytes else "nothing new"
    log.info("fetched %s: %s in %.2f s, at %s", name, said, time.monotonic() - begin, path)
    return path


def _fetched(
    parsed: Hub | Url,
    kind: Kind,
    offline: bool | None,
    progress: OnProgress,
    limits: Limits | None,
    allow_private: bool,
) -> Path:
    sweep_cache()
    limit = cache_limit()  # what is wrong with it is said before anything is fetched
    limits = limits or Limits()
    options: dict[str, Any] = {
        "offline": is_offline(offline),
        "limits": limits,
        "max_bytes": MAX_BYTES[kind] if limits.max_bytes is None else limits.max_bytes,
        "progress": progress,
    }
    if isinstance(parsed, Hub):
        from lorakit.sources.hub import fetch_hub  # slow, and paths need neither

        return fetch_hub(parsed, kind, **options)
    from lorakit.sources.web import fetch_url

    path = fetch_url(parsed, kind, **options, allow_private=allow_private)
    if limit is not None:
        from lorakit.sources.prune import keep_limit  # slow, and few have a limit

        keep_limit()
    return path
