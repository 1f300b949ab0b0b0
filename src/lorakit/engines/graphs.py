"""Built graphs on disk: find a base's graph in the cache, or build it, and open a session on it.

An entry is a folder that appears by one rename, so it is whole or absent, however many processes
build it at once. A cache that cannot be written costs a warning and the graph is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorakit.adapter import Array
from lorakit.base import Base
from lorakit.cache import cache_root, touch
from lorakit.engines.protocol import abandoned
from lorakit.engines.session import open_session
from lorakit.errors import CancelledError, EngineError, MissingExtraError
from lorakit.graph import VERSION, FileStore, GraphOptions, MemoryStore, build

log = logging.getLogger("lorakit")
ABANDONED = 24 * 3600  # seconds
MODEL, MANIFEST = "model.onnx", "manifest.json"


def open_graph(base: Base, options: GraphOptions, *, threads: int | None) -> Any:
    """A session on the base's graph. Raises EngineError where onnxruntime refuses it."""
    folder = cache_root() / "graphs" / _key(base, options)
    try:
        return _open_cached(base, options, folder, threads)
    except (OSError, EngineError) as error:
        if isinstance(error, MissingExtraError) or getattr(error, "code", "") == "out_of_memory":
            raise
        log.warning("the graph of %s cannot be cached (%s): holding it in memory", base.name, error)
    store = MemoryStore()
    model = build(base, options, store)
    return open_session(model, threads=threads, initializers=store.arrays)


def _open_cached(base: Base, options: GraphOptions, folder: Path, threads: int | None) -> Any:
    """A session on the cache's entry, built where there is none or a broken one."""
    if _whole(folder):
        try:
            touch(folder)
            return open_session(str(folder / MODEL), threads=threads)
        except EngineError as error:
            log.warning(
                "the cached graph of %s does not open, building it anew: %s", base.name, error
            )
            shutil.rmtree(folder, ignore_errors=True)
    _build(base, options, folder)
    return open_session(str(folder / MODEL), threads=threads)


def _key(base: Base, options: GraphOptions) -> str:
    parts = {"base": base.fingerprint, "version": VERSION, **asdict(options)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _whole(folder: Path) -> bool:
    """Whether an entry is there and every file has the size that was written."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(sizes) and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def _build(base: Base, options: GraphOptions, folder: Path) -> None:
    """Build into a temporary folder beside the entry, then rename. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        store = _Interruptible(temporary)
        try:
            model = build(base, options, store)
        finally:
            store.close()
        (temporary / MODEL).write_bytes(model)
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        (temporary / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
        temporary.chmod(0o755)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Interruptible(FileStore):
    """Stops between two weights when nobody waits for the engine any more."""

    def put(self, name: str, array: Array) -> tuple[int, int]:
        if abandoned.get()():
            raise CancelledError("the model was closed while it was opening")
        return super().put(name, array)


def _sweep(graphs: Path) -> None:
    """Remove what a build that was killed left behind, once no build can still be at it."""
    for path in graphs.glob(".*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    """Put a built entry in its place, unless another process was first; a broken one is removed."""
    try:
        temporary.rename(folder)
    except OSError:
        if _whole(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
