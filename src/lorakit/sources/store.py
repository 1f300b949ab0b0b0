"""Downloaded files on disk: by content, with a record for each URL.

    downloads/blobs/<sha256>            a file's bytes
    downloads/urls/<sha256 of URL>.json which bytes the URL held, and under which ETag
    downloads/trees/<key>/              files under their own names, linked to blobs
    downloads/partial/<sha256 of URL>   what a download that broke off has so far
    downloads/locks/<sha256 of URL>     held while a process downloads

Whatever is in its place was whole when it came, by a rename. What it is now is compared with its
hash, once in a process; what is damaged is removed, and counts as not fetched.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock

from lorakit.errors import SourceError, WriteError
from lorakit.files.atomic import move, new_folder, write_atomic, write_synced
from lorakit.files.bounded import read_bounded
from lorakit.files.cache import cache_root, digest_of, touch
from lorakit.files.gguf_parts import first_part

log = logging.getLogger("lorakit")
MAX_RECORD = 1 << 20  # bytes of a record or a manifest
MANIFEST = ".source.json"
LONGEST = 80  # characters of a file's name; its end is kept, where the format is told
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a URL held when it was last asked."""

    source: str  # the URL, safe to show
    sha256: str
    size: int
    etag: str | None


class Store:
    """The downloads in the cache. A file system that refuses is a WriteError."""

    def __init__(self) -> None:
        self.root = cache_root() / "downloads"

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held by one process and one thread at a time; by nobody where nothing can be written."""
        lock = self._acquired(key)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _acquired(self, key: str) -> BaseFileLock | None:
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "locks" / key)
            lock.acquire(poll_interval=0.02)
        except OSError as error:  # what is here can still be read
            log.info("no lock in the download cache %s: %s", self.root, error)
            return None
        return lock

    def partial(self, key: str) -> Path:
        folder = self.root / "partial"
        with suppress(OSError):  # whoever writes there is told
            folder.mkdir(parents=True, exist_ok=True)
        return folder / key

    def record(self, key: str) -> Record | None:
        """The record of a URL whose bytes are still here, and still what they were."""
        try:
            content = read_bounded(self.root / "urls" / f"{key}.json", MAX_RECORD)
            record = Record(**json.loads(content or b""))
            whole = bool(_SHA256.fullmatch(record.sha256)) and self.holds(record.sha256)
        except (OSError, ValueError, TypeError, SourceError):
            return None
        return record if whole else None

    def holds(self, sha256: str) -> bool:
        """Whether a blob is here and still what its name says; a damaged one is removed."""
        blob = self.blob(sha256)
        try:
            whole = digest_of(blob) == sha256
        except (OSError, SourceError):
            return False
        if not whole:
            log.warning("the download %s is damaged, and counts as not fetched", blob)
            with suppress(OSError):
                blob.unlink()
        return whole

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def put(self, key: str, partial: Path, record: Record) -> Path:
        """Move a finished partial file to its place by content, and write the URL's record."""
        blob = self.blob(record.sha256)
        with writing(self.root):
            for folder in (blob.parent, self.root / "urls"):
                folder.mkdir(parents=True, exist_ok=True)
            if not self.holds(record.sha256):  # a mapped file cannot be replaced everywhere
                move(partial, blob)
            write_atomic(self.root / "urls" / f"{key}.json", json.dumps(asdict(record)).encode())
        return blob

    def tree(self, source: str, blobs: Mapping[str, Path]) -> Path:
        """A folder with these files under their names, some in a folder of it; the same one for the
        same files."""
        names = {"/".join(map(safe_name, n.split("/"))): blob for n, blob in blobs.items()}
        files = {name: blob.name for name, blob in sorted(names.items())}
        key = hashlib.sha256(json.dumps([source, files]).encode()).hexdigest()[:32]
        path = self.root / "trees" / key
        manifest = json.dumps({"source": source, "files": files}).encode()
        with self.lock(f"tree-{key}"):  # else one could replace what another was just given
            if not _whole(path, files, manifest):
                with writing(self.root), new_folder(path, replace=True) as folder:
                    for name, blob in names.items():
                        (folder / name).parent.mkdir(exist_ok=True)
                        _link(blob, folder / name)
                    write_synced(folder / MANIFEST, manifest)
        touch(path)
        return path


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn what the file system refuses into WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write the download cache {where}: {error.strerror or error}",
            hint="LORAKIT_CACHE names another place for it",
        ) from error


def safe_name(name: str) -> str:
    """A file name that every system takes, Windows too."""
    plain = re.sub(r"[^\w.+=@ -]", "_", name, flags=re.ASCII).strip(" .")
    if len(plain) > LONGEST:  # Windows allows 260 characters for a whole path
        one = first_part(name)  # else the parts of a model would no longer be named alike
        digest = hashlib.sha256(one.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        plain = f"{digest}-{plain[9 - LONGEST :].strip(' .')}"
    return f"_{plain}" if not plain or _DEVICES.fullmatch(plain) else plain


def _whole(path: Path, files: Mapping[str, str], manifest: bytes) -> bool:
    """Whether a tree's files are there and have their hashes."""
    try:
        return read_bounded(path / MANIFEST, MAX_RECORD) == manifest and all(
            digest_of(path / name) == sha256 for name, sha256 in files.items()
        )
    except (OSError, SourceError):
        return False


def _link(blob: Path, path: Path) -> None:
    try:
        os.link(blob, path)
    except OSError as error:  # a file system without hard links
        if path.exists():  # another name that this file system takes for the same
            raise FileExistsError(error.errno, "two files of one name", str(path)) from error
        shutil.copyfile(blob, path)
