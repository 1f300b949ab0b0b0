"""What is in the cache, and how it is kept small.

An entry is what is removed as one: a graph, a merged base, a downloaded adapter or base, all
fingerprints together. Its last use is the modification time of its folder, which `touch` sets.
Everything here can be made or fetched again. What a running process holds (files/holding.py) is
left by all but `clear`.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lorakit.errors import ParameterError, SourceError, WriteError
from lorakit.files.atomic import is_temporary, remove_folder
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.files.cache import HOUR, KINDS, cache_limit, cache_root, seal_of, sweep_cache
from lorakit.files.holding import is_held
from lorakit.sources.store import MANIFEST, MAX_RECORD

log = logging.getLogger("lorakit")
DOWNLOADS = "downloads"
MEMOS = ("fingerprints", "kernels", "libraries", "models", "numerics", "projectors")  # small
YOUNG = 2 * HOUR  # seconds; a use is noted once in an hour, see `touch`
PARTIAL = "partial"  # downloads that broke off
LARGE = {*KINDS, PARTIAL}.difference(MEMOS)  # the kinds that a limit is kept by
ABANDONED = 24 * 3600  # seconds after which no download can still be at a file outside a tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the cache."""

    kind: str  # graphs, fingerprints, merged, adapters and bases ("downloads"), partial, ...
    name: str  # what it is of: a URL, a key
    size: int  # bytes; a file that two downloads share counts in both
    used: float  # seconds since the epoch
    paths: tuple[Path, ...]
    held: bool = False  # a running process uses it

    def to_dict(self) -> dict[str, Any]:
        names = ("kind", "name", "size", "used", "held")
        return {name: getattr(self, name) for name in names}


def entries() -> list[Entry]:
    """Everything in the cache, what was used last first; what killed processes left is removed."""
    root = cache_root()
    sweep_cache(again=True)
    found: list[Entry] = []
    for folder in _children(root):
        found += _LISTERS.get(folder.name, _each)(folder)
    return sorted(found, key=lambda entry: -entry.used)


def prune(*, max_age: float | None = None, max_bytes: int | None = None) -> list[Entry]:
    """Remove what was not used for `max_age` seconds, then the oldest until `max_bytes` are left.

    What a running process holds is left. Returns what was removed. Raises ParameterError, and
    WriteError where something cannot be removed, after the rest is.
    """
    if max_age is None and max_bytes is None:
        raise ParameterError("say what to remove", hint="max_age, max_bytes or both")
    if any(value is not None and value < 0 for value in (max_age, max_bytes)):
        raise ParameterError("max_age and max_bytes cannot be negative")
    all_entries = entries()
    old = time.time() - max_age if max_age is not None else float("-inf")
    left = sum(entry.size for entry in all_entries)
    doomed = []
    for entry in reversed(all_entries):
        if not entry.held and (entry.used < old or (max_bytes is not None and left > max_bytes)):
            doomed.append(entry)
            left -= entry.size
    return _remove(doomed)


def keep_limit() -> list[Entry]:
    """Remove the oldest entries until the cache is within `cache_limit`; returns what was removed.

    Never what a running process holds, nor what was used within an hour. What cannot be removed is
    logged. Without a limit nothing is looked at. Raises ParameterError for a limit that is none.
    """
    if (limit := cache_limit()) is None:
        return []
    own = [entry for entry in entries() if entry.kind in (*KINDS, PARTIAL)]
    left, young = sum(entry.size for entry in own), time.time() - YOUNG
    doomed = []
    for entry in reversed(own):
        if left > limit and entry.kind in LARGE and entry.used < young and not entry.held:
            doomed.append(entry)
            left -= entry.size
    for entry in doomed:
        log.info("the cache is over its limit: %s (%s) goes", entry.name, entry.kind)
    try:
        return _remove(doomed)
    except WriteError as error:
        log.warning("the cache cannot be kept to its limit: %s: %s", error.message, error.items)
        return []


def clear() -> list[Entry]:
    """Remove everything that `entries` lists. Errors as of `prune`."""
    return _remove(entries(), age=0)


def _remove(doomed: Iterable[Entry], *, age: float = ABANDONED) -> list[Entry]:
    removed, faults = [], []
    doomed = list(doomed)
    loose = {sha for entry in doomed for path in entry.paths for sha in _manifest(path)[1]}
    for entry in doomed:
        failed = [fault for path in entry.paths if (fault := _delete(path))]
        faults += failed
        if not failed:
            removed.append(entry)
    faults += _sweep(cache_root() / DOWNLOADS, loose, age)
    if faults:
        raise WriteError(
            f"{len(faults)} files in the cache cannot be removed",
            items=faults[:20],
            hint="a process may have them open",
        )
    return removed


def _delete(path: Path) -> str:
    """Remove a file or folder; what was in the way, or an empty string."""
    if path.parent.name != "partial":
        return _unlink(path)
    lock = FileLock(path.parent.parent / "locks" / path.name.partition(".")[0])
    try:
        with lock.acquire(timeout=0):
            return _unlink(path)
    except Timeout:
        return ""  # it is being downloaded
    except OSError:  # no folder of locks: nobody downloads
        return _unlink(path)


def _unlink(path: Path) -> str:
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            remove_folder(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""


def _sweep(downloads: Path, loose: Set[str], age: float) -> list[str]:
    """Remove blobs that no tree uses (any more: `loose`), and records of blobs that are gone."""
    kept = {sha for tree in _children(downloads / "trees") for sha in _manifest(tree)[1]}
    now = time.time()
    faults = [
        _unlink(blob)
        for blob in _children(downloads / "blobs")
        if blob.name not in kept and (blob.name in loose or now - _mtime(blob) >= age)
    ]
    for record in _children(downloads / "urls"):
        with suppress(OSError, ValueError, KeyError, TypeError, SourceError):
            content = parse_json(read_bounded(record, MAX_RECORD) or b"")
            blob = downloads / "blobs" / content["sha256"]
            if not blob.exists():
                faults.append(_unlink(record))
    return [fault for fault in faults if fault]


def _each(folder: Path) -> Iterator[Entry]:
    """Every file or folder in a folder is an entry."""
    children = _children(folder)
    sealed = {seal_of(path) for path in children}
    for path in children:
        if path not in sealed:
            said = _manifest(path)[0] or _named(path / "manifest.json") or _named(seal_of(path))
            yield _entry(folder.name, said or path.name, path, seal_of(path))


def _together(folder: Path) -> Iterator[Entry]:
    """Small files, which are one entry."""
    paths = _children(folder)
    if paths:
        yield Entry(
            kind=folder.name,
            name=f"{len(paths)} file{'s' * (len(paths) > 1)}",
            size=sum(map(_size, paths)),
            used=max(map(_mtime, paths)),
            paths=tuple(paths),
        )


def _downloads(folder: Path) -> Iterator[Entry]:
    for tree in _children(folder / "trees"):
        yield _entry(DOWNLOADS, _manifest(tree)[0] or tree.name, tree)
    for part in _children(folder / "partial"):
        if part.suffix != ".json":
            yield _entry(PARTIAL, part.name[:16], part, part.with_name(f"{part.name}.json"))


def _entry(kind: str, name: str, *paths: Path) -> Entry:
    return Entry(
        kind=kind,
        name=name,
        size=sum(map(_size, paths)),
        used=_mtime(paths[0]),
        paths=paths,
        held=is_held(paths[0]),
    )


_LISTERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    **dict.fromkeys(MEMOS, _together),
    DOWNLOADS: _downloads,
}


def _manifest(tree: Path) -> tuple[str, list[str]]:
    """What a tree was fetched from, and the blobs that its files are."""
    try:
        values = parse_json(read_bounded(tree / MANIFEST, MAX_RECORD) or b"")
        return str(values["source"]), [str(sha) for sha in values["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SourceError):
        return "", []


def _named(record: Path) -> str:
    """What a graph's manifest or a file's seal says that it is of: a model and more."""
    try:
        name = parse_json(read_bounded(record, MAX_RECORD) or b"")["name"]
    except (OSError, ValueError, KeyError, TypeError, SourceError):
        return ""
    return name if isinstance(name, str) else ""


def _children(folder: Path) -> list[Path]:
    """What is in a folder, but for what a process is just writing."""
    try:
        return sorted(path for path in folder.iterdir() if not is_temporary(path.name))
    except OSError:
        return []


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(child) for child in _children(path))
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _mtime(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
