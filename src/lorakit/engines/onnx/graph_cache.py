"""Built graphs on disk: find a base's graph in the cache, or build it, and open a session on it.

An entry is a folder that appears by one rename, so it is whole or absent, however many processes
build it at once. Its files are used only if they have the digests that were written with them, and
if they were written for its key: the weights are read for that while the session opens, and an
entry that is damaged or another's is built anew. A cache that cannot be written costs a warning,
and the graph is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.engines.onnx.device import Device
from lorakit.engines.onnx.ort import onnxruntime, open_session
from lorakit.engines.protocol import abandoned
from lorakit.errors import CancelledError, EngineError, FormatError, MissingExtraError, SourceError
from lorakit.files.atomic import new_folder, sweep, write_synced
from lorakit.files.bounded import load, parse_json, read_bounded
from lorakit.files.cache import blocks_digest_of, cache_root, touch
from lorakit.files.holding import hold
from lorakit.graph import VERSION, FileStore, GraphOptions, MemoryStore, Sight, build
from lorakit.graph.gains import Extra, extended
from lorakit.graph.packing import packed

log = logging.getLogger("lorakit")
ENTRY = 3  # of what an entry holds
MAX_MANIFEST = 1 << 16  # bytes
MODEL, MANIFEST = "model.onnx", "manifest.json"
Sights = Callable[[], Sight]


def open_graph(
    base: Base,
    options: GraphOptions,
    sights: Sights,
    *,
    threads: int | None,
    device: Device,
    extras: Collection[Extra] = (),
    lanes: int = 0,
) -> Any:
    """A session on the base's graph. Raises EngineError where onnxruntime refuses it.

    sights: gives that of `graph.build`, and is asked where the graph has to be built. extras: with
    these inputs (graph.gains), on the same files. lanes: with so many (graph.packing), likewise.
    """
    folder = cache_root() / "graphs" / _key(base, options)
    opened = partial(open_session, threads=threads, device=device)

    def widened(model: bytes) -> bytes:
        model = extended(model, base, extras) if extras else model
        return packed(model, base, lanes) if lanes else model

    def on_files(path: str) -> Any:
        if not extras and not lanes:
            return opened(path)
        model = widened(bytes(load(Path(path))))
        return opened(model, folder=Path(path).parent)

    try:
        return _open_cached(base, options, sights, folder, on_files)
    except (OSError, EngineError, FormatError) as error:
        if isinstance(error, MissingExtraError) or getattr(error, "code", "") == "out_of_memory":
            raise
        log.warning("the graph of %s cannot be cached (%s): holding it in memory", base.name, error)
    store = MemoryStore()
    model = widened(build(base, options, store, sights()))
    return opened(model, initializers=store.arrays)


def _open_cached(
    base: Base,
    options: GraphOptions,
    sights: Sights,
    folder: Path,
    opened: Callable[..., Any],
) -> Any:
    """A session on the cache's entry, built where there is none or a damaged one."""
    if folder.exists():
        try:
            touch(folder)
            session = _open_checked(folder, opened)
            hold(folder, session)
            return session
        except (OSError, EngineError, FormatError) as error:
            if getattr(error, "code", "") in ("out_of_memory", "extra_missing"):
                raise
            fault = str(error)
        # here the error is gone, and with it a session that may map what is to be removed
        log.warning("the cached graph of %s is damaged (%s): building it anew", base.name, fault)
        shutil.rmtree(folder, ignore_errors=True)
    _build(base, options, sights, folder)
    session = opened(str(folder / MODEL))
    hold(folder, session)
    return session


def _open_checked(folder: Path, opened: Callable[..., Any]) -> Any:
    """A session on an entry whose files are those that were written.

    The model is small, and read first; the weights are read beside the opening session. Raises
    FormatError, and EngineError where the session does not open.
    """
    expected = _manifest(folder)
    _require(folder, {MODEL: expected[MODEL]})
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(_require, folder, expected)
        session = opened(str(folder / MODEL))
    if fault := weights.exception():
        del session  # the error holds this frame, and Windows removes no file that is mapped
        raise fault
    return session


def _key(base: Base, options: GraphOptions) -> str:
    parts = {
        "base": base.fingerprint,
        "onnxruntime": onnxruntime().__version__,
        "version": VERSION,
        "entry": ENTRY,
        **asdict(options),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _manifest(folder: Path) -> dict[str, str]:
    """The digest of every file but the manifest. Raises FormatError."""
    try:
        found = parse_json(read_bounded(folder / MANIFEST, MAX_MANIFEST) or b"")
        digests = {str(name): str(digest) for name, digest in found["files"].items()}
        key = found["key"]
    except (OSError, ValueError, SourceError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{MANIFEST} cannot be read") from error
    if key != folder.name or MODEL not in digests:
        raise FormatError("it is the entry of another base, or of other options")
    return digests


def _require(folder: Path, expected: dict[str, str]) -> None:
    """Raise FormatError unless the files have their digests."""
    for name, digest in expected.items():
        try:
            found = blocks_digest_of(folder / name)
        except (OSError, SourceError) as error:
            raise FormatError(f"{name} cannot be read: {error}") from error
        if found != digest:
            raise FormatError(f"{name} is not what was written")


def _build(base: Base, options: GraphOptions, sights: Sights, folder: Path) -> None:
    """Build an entry beside its place, then rename it, unless another process was first.

    Raises OSError.
    """
    sweep(folder.parent)
    try:
        with new_folder(folder) as temporary:
            store = _Interruptible(temporary)
            try:
                model = build(base, options, store, sights())
            finally:
                store.close()
            write_synced(temporary / MODEL, model)
            digests = {path.name: blocks_digest_of(path) for path in temporary.iterdir()}
            name = f"{base.name} ({options.linear})"  # for `lorakit cache list`
            manifest = {
                "key": folder.name,
                "base": base.fingerprint,
                "name": name,
                "files": digests,
            }
            write_synced(temporary / MANIFEST, json.dumps(manifest).encode())
    except OSError:
        if not folder.exists():
            raise
        _require(folder, _manifest(folder))


class _Interruptible(FileStore):
    """Stops between two weights when nobody waits for the engine any more."""

    def put(self, name: str, array: Array) -> tuple[int, int]:
        if abandoned.get()():
            raise CancelledError("the model was closed while it was opening")
        return super().put(name, array)
