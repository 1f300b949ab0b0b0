"""One file of a URL into the store: resumed, bounded, verified, retried.

A body goes into a partial file that outlives failures and Ctrl-C, with a note of what it is: ETag,
size and hash. It is continued only where it still has that hash and the server's strong ETag says
that it is still the same file, and moves to its place by content when it
has the length that was announced and, where one is given, the hash. A download ends: by a deadline
for all of it, and by a rate below which a server counts as one that does not answer.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lorakit.errors import SourceError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import open_regular, read_bounded
from lorakit.files.cache import touch
from lorakit.sources.limits import Limits, OnProgress, Progress
from lorakit.sources.reference import Url, shown
from lorakit.sources.store import MAX_RECORD, Record, Store, writing
from lorakit.sources.transport import UnreachableError, failure, request, unreachable
from lorakit.sources.wire import Patience, ProtocolError, Response

_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)
_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e]{0,256}"', re.ASCII)


NOTED = 32 << 20  # bytes after which a killed process's part is known to be whole
log = logging.getLogger("lorakit")


@dataclass(slots=True, kw_only=True)
class Download:
    """A file that is being fetched. `attempt` may be called until it returns the blob."""

    url: str
    store: Store
    limits: Limits
    max_bytes: int
    sha256: str | None = None
    progress: OnProgress | None = None
    allow_private: bool = False
    _patience: Patience = field(init=False)
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)  # of what the partial file holds
    _etag: str | None = None  # of what it is the beginning of

    def __post_init__(self) -> None:
        self._patience = Patience(limits=self.limits)

    @property
    def key(self) -> str:
        return hashlib.sha256(self.url.encode()).hexdigest()

    @property
    def partial(self) -> Path:
        return self.store.partial(self.key)

    @property
    def _note(self) -> Path:
        return self.partial.with_name(f"{self.key}.json")

    def run(self) -> Path | None:
        """The blob, or None where the server has no such file. Errors as of `fetch_file`."""
        waits, best, since = 0, self._size(), time.monotonic()
        while True:
            try:
                return self.attempt()
            except UnreachableError as error:
                have, now = self._size(), time.monotonic()
                got_on = have - best >= max(1.0, self.limits.min_rate * (now - since))
                waits = 0 if got_on else waits + 1
                best, since = max(best, have), now
                pause = self.limits.backoff * 2 ** max(0, waits - 1)
                asked = error.wait or 0.0
                late = now + max(pause, asked) >= self._patience.end
                if late or waits > self.limits.retries or asked > self.limits.max_wait:
                    raise unreachable(self.url, str(error)) from error
                time.sleep(min(max(pause, asked), self.limits.max_wait))

    def attempt(self) -> Path | None:
        """One request. Raises UnreachableError where another one may do better."""
        record = self.store.record(self.key)
        etag = self._resumable()
        headers = {}
        if etag is not None:
            headers = {"Range": f"bytes={self._size()}-", "If-Range": etag}
        elif record and record.etag and not self.sha256:
            headers = {"If-None-Match": record.etag}
        with request(
            self.url, headers, self._patience, allow_private=self.allow_private
        ) as response:
            if response.status == 304 and record and "If-None-Match" in headers:
                return self.store.blob(record.sha256)
            if response.status in (404, 410):
                return None
            if response.status not in (200, 206):
                self.discard()
                raise UnreachableError(f"the server answers {response.status}")
            begin, end, total = self._begin(response, etag)
            try:
                self._receive(response, begin, end, total)
            except SourceError as error:
                if isinstance(error.__cause__, ProtocolError):  # what it sent is worth nothing
                    self.discard()
                raise
        if total is not None and end is not None and end < total:
            raise UnreachableError(f"the server sends {end} of {total} bytes")
        return self._finish(response.headers.get("ETag"))

    def discard(self) -> None:
        for path in (self.partial, self._note):
            with writing(self.store.root):
                path.unlink(missing_ok=True)

    def _size(self) -> int:
        try:
            return self.partial.stat().st_size
        except OSError:
            return 0

    def _resumable(self) -> str | None:
        """The ETag of the file that the partial one is the beginning of, as far as it was noted."""
        try:
            note = json.loads(read_bounded(self._note, MAX_RECORD) or b"")
            etag, size = _strong(note["etag"]), int(note["size"])
            if etag is None or not 0 < size <= self._size():
                return None
            with self.partial.open("r+b") as file:
                found = _hash_of(file, size)
                if found.hexdigest() != note["sha256"]:
                    log.warning("what there is of %s is damaged: beginning anew", shown(self.url))
                    return None
                file.truncate(size)
        except (OSError, ValueError, TypeError, KeyError, SourceError):
            return None
        self._hash, self._etag = found, etag
        return etag

    def _write_note(self, size: int) -> None:
        if self._etag is not None:
            note = {"etag": self._etag, "size": size, "sha256": self._hash.hexdigest()}
            write_atomic(self._note, json.dumps(note).encode())

    def _begin(self, response: Response, asked: str | None) -> tuple[int, int | None, int | None]:
        """Where in the file the body begins and ends, and the length of the whole."""
        etag = _strong(response.headers.get("ETag"))
        begin, end, total = 0, response.length, response.length
        if response.status == 206:
            said = _RANGE.fullmatch(str(response.headers.get("Content-Range", "")))
            if not said or not self._is_rest(said, response.length, asked, etag):
                self.discard()
                raise UnreachableError("the server sends another part than was asked for")
            begin, end = int(said[1]), int(said[2]) + 1
            total = None if said[3] == "*" else int(said[3])
        if max(end or 0, total or 0) > self.max_bytes:
            raise self._too_large(max(end or 0, total or 0))
        if begin == 0:
            self.discard()
            self._hash, self._etag = hashlib.sha256(), etag
        return begin, end, total

    def _is_rest(
        self, said: re.Match[str], length: int | None, asked: str | None, etag: str | None
    ) -> bool:
        """Whether a part is what is missing, and what is said of it does not contradict itself."""
        begin, end = int(said[1]), int(said[2]) + 1
        total = None if said[3] == "*" else int(said[3])
        return (
            asked is not None
            and etag in (None, asked)
            and begin == self._size()
            and begin < end
            and length in (None, end - begin)
            and (total is None or end <= total)
        )

    def _receive(self, response: Response, begin: int, end: int | None, total: int | None) -> None:
        """The body to the end of the partial file, as far as it was announced and is allowed."""
        done = begin
        with writing(self.store.root), self._appending() as append:
            while piece := self._next(response, done, total):
                done += len(piece)
                if done > min(self.max_bytes, self.max_bytes if end is None else end):
                    break
                append(piece)
        if done > self.max_bytes:
            self.discard()
            raise self._too_large(done)
        if end is not None and done < end:
            raise UnreachableError(f"the connection ended after {done} of {end} bytes")
        if end is not None and done > end:
            self.discard()
            raise UnreachableError(f"the server sent {done} bytes where it announced {end}")

    @contextmanager
    def _appending(self) -> Iterator[Callable[[bytes], None]]:
        """Pieces go to the end of the partial file, and into the note of it now and then."""
        with self.partial.open("ab") as file:
            noted = file.tell()

            def append(piece: bytes) -> None:
                nonlocal noted
                file.write(piece)
                self._hash.update(piece)
                if file.tell() - noted >= NOTED:
                    noted = file.tell()
                    file.flush()
                    self._write_note(noted)

            try:
                yield append
            finally:
                file.flush()
                os.fsync(file.fileno())
                self._write_note(file.tell())

    def _next(self, response: Response, done: int, total: int | None) -> bytes:
        """The next piece of the body, empty at its end; the caller's progress is told before."""
        if self.progress is not None:
            name = self.url.partition("?")[0].rpartition("/")[2]
            self.progress(Progress(source=shown(self.url), file=name, done=done, total=total))
        try:
            return response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise failure(self.url, error) from error

    def _finish(self, etag: str | None) -> Path:
        with writing(self.store.root), open_regular(self.partial) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        if found != self._hash.hexdigest():
            self.discard()
            raise UnreachableError("what was written is not what came")
        if self.sha256 not in (None, found):
            self.discard()
            raise mismatch(self.url, self.sha256 or "", found)
        if not (etag and _ETAG.fullmatch(etag)):
            etag = None
        record = Record(source=shown(self.url), sha256=found, size=size, etag=etag)
        blob = self.store.put(self.key, self.partial, record)
        self.discard()
        return blob

    def _too_large(self, size: int) -> SourceError:
        return SourceError(
            f"{shown(self.url)} is too large: {size} bytes or more, {self.max_bytes} are allowed",
            code="source_too_large",
            hint="Limits(max_bytes=...) allows more",
        )


def fetch_file(
    url: str,
    *,
    limits: Limits,
    max_bytes: int,
    sha256: str | None = None,
    offline: bool = False,
    progress: OnProgress | None = None,
    allow_private: bool = False,
) -> Path | None:
    """The bytes of a URL as a file of the store, or None where the server has no such file.

    A file of a given hash that is in the store is taken without a request; any other is asked for
    again, by its ETag. Offline, what the store has is the answer.
    Raises SourceError (source_unreachable, source_denied, source_too_large, source_mismatch,
    offline) and WriteError.
    """
    store = Store()
    download = Download(
        url=url, store=store, limits=limits, max_bytes=max_bytes, sha256=sha256, progress=progress,
        allow_private=allow_private,
    )  # fmt: skip
    if sha256 and store.holds(sha256):
        return _used(store.blob(sha256))
    if offline:
        record = store.record(download.key)
        if record is None:
            return None
        if sha256 not in (None, record.sha256):
            raise mismatch(url, sha256 or "", record.sha256)
        return _used(store.blob(record.sha256))
    with store.lock(download.key):
        blob = download.run()
    return None if blob is None else _used(blob)


def fetch_one(reference: Url, *, offline: bool, **options: Any) -> Path:
    """`fetch_file`, where the file must be there."""
    path = fetch_file(reference.url, sha256=reference.sha256, offline=offline, **options)
    if path is None:
        raise not_cached(shown(reference.url)) if offline else not_there(reference.url)
    return path


def not_cached(source: str) -> SourceError:
    return SourceError(
        f"{source} is not in the cache, and lorakit is offline",
        code="offline",
        hint="fetch it once while online (offline=False, no LORAKIT_OFFLINE or HF_HUB_OFFLINE)",
    )


def not_there(url: str) -> SourceError:
    return SourceError(f"the server has nothing at {shown(url)}", hint="check the URL")


def mismatch(url: str, expected: str, found: str) -> SourceError:
    return SourceError(
        f"{shown(url)} is not the file that #sha256= names, and was deleted",
        code="source_mismatch",
        items=[f"expected {expected}", f"found {found}"],
        hint="ask whoever gave you the hash; do not use the file",
    )


def _hash_of(file: BinaryIO, size: int) -> hashlib._Hash:
    """The hash of a file's first bytes, to go on with."""
    found = hashlib.sha256()
    while size and (piece := file.read(min(size, 1 << 20))):
        found.update(piece)
        size -= len(piece)
    return found


def _strong(etag: str | None) -> str | None:
    """An ETag that vouches for every byte (RFC 9110, 8.8.3)."""
    return etag if etag and etag.startswith('"') and _ETAG.fullmatch(etag) else None


def _used(blob: Path) -> Path:
    touch(blob)
    return blob
