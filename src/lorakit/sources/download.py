"""One file of a URL into the store: resumed, bounded, verified, retried.

A body goes into a partial file that outlives failures and Ctrl-C. It is continued only where the
server's strong ETag says that it is still the same file, and moves to its place by content when it
has the length that was announced and, where one is given, the hash.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lorakit.atomic import write_atomic
from lorakit.cache import touch
from lorakit.errors import SourceError
from lorakit.sources.limits import Limits, OnProgress, Progress
from lorakit.sources.reference import Url, shown
from lorakit.sources.store import Record, Store, writing
from lorakit.sources.transport import UnreachableError, failure, request, unreachable

CHUNK = 1 << 16
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(slots=True, kw_only=True)
class Download:
    """A file that is being fetched. `attempt` may be called until it returns the blob."""

    url: str
    store: Store
    limits: Limits
    max_bytes: int
    sha256: str | None = None
    progress: OnProgress | None = None

    @property
    def key(self) -> str:
        return hashlib.sha256(self.url.encode()).hexdigest()

    @property
    def partial(self) -> Path:
        return self.store.partial(self.key)

    @property
    def _validator(self) -> Path:
        return self.partial.with_name(f"{self.key}.json")

    def run(self) -> Path | None:
        """The blob, or None where the server has no such file. Errors as of `fetch_file`."""
        waits, best = 0, self._size()
        while True:
            try:
                return self.attempt()
            except UnreachableError as error:
                have = self._size()
                waits, best = (0, have) if have > best else (waits + 1, best)
                pause = self.limits.backoff * 2 ** max(0, waits - 1)
                asked = error.wait or 0.0
                if waits > self.limits.retries or asked > self.limits.max_wait:
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
        with request(self.url, headers, self.limits.timeout) as response:
            if response.status == 304 and record:
                return self.store.blob(record.sha256)
            if response.status in (404, 410):
                return None
            if response.status not in (200, 206):
                self.discard()
                raise UnreachableError(f"the server answers {response.status}")
            begin, total = self._begin(response, etag)
            self._receive(response, begin, total)
        return self._finish(response.headers.get("ETag"))

    def discard(self) -> None:
        for path in (self.partial, self._validator):
            with writing(self.store.root):
                path.unlink(missing_ok=True)

    def _size(self) -> int:
        try:
            return self.partial.stat().st_size
        except OSError:
            return 0

    def _resumable(self) -> str | None:
        """The ETag of the file that the partial one is the beginning of."""
        try:
            value = json.loads(self._validator.read_text(encoding="utf-8"))["etag"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return value if isinstance(value, str) and self._size() else None

    def _begin(
        self, response: http.client.HTTPResponse, asked: str | None
    ) -> tuple[int, int | None]:
        """Where in the file the body begins, and the length of the whole."""
        length = response.headers.get("Content-Length", "")
        etag = _strong(response.headers.get("ETag"))
        begin, total = 0, int(length) if length.isdecimal() else None
        if response.status == 206:
            said = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not said or int(said[1]) != self._size() or etag not in (None, asked):
                self.discard()
                raise UnreachableError("the server sends another part than was asked for")
            begin = int(said[1])
            total = int(said[3]) if said[3] != "*" else None if total is None else begin + total
        if total is not None and total > self.max_bytes:
            raise self._too_large(total)
        if begin == 0:
            self.discard()
            if etag is not None:
                with writing(self.store.root):
                    write_atomic(self._validator, json.dumps({"etag": etag}).encode())
        return begin, total

    def _receive(self, response: http.client.HTTPResponse, begin: int, total: int | None) -> None:
        done = begin
        with writing(self.store.root), self.partial.open("ab") as file:
            while piece := self._next(response, done, total):
                done += len(piece)
                if done > self.max_bytes:
                    break
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if done > self.max_bytes:
            self.discard()
            raise self._too_large(done)
        if total is not None and done < total:
            raise UnreachableError(f"the connection ended after {done} of {total} bytes")
        if total is not None and done > total:
            self.discard()
            raise UnreachableError(f"the server sent {done} bytes where it announced {total}")

    def _next(self, response: http.client.HTTPResponse, done: int, total: int | None) -> bytes:
        """The next piece of the body, empty at its end; the caller's progress is told before."""
        if self.progress is not None:
            name = self.url.partition("?")[0].rpartition("/")[2]
            self.progress(Progress(source=shown(self.url), file=name, done=done, total=total))
        try:
            return response.read1(CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise failure(self.url, error) from error

    def _finish(self, etag: str | None) -> Path:
        with writing(self.store.root), self.partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        if self.sha256 not in (None, found):
            self.discard()
            raise mismatch(self.url, self.sha256 or "", found)
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
) -> Path | None:
    """The bytes of a URL as a file of the store, or None where the server has no such file.

    A file of a given hash that is in the store is taken without a request; any other is asked for
    again, by its ETag. Offline, what the store has is the answer.
    Raises SourceError (source_unreachable, source_denied, source_too_large, source_mismatch,
    offline) and WriteError.
    """
    store = Store()
    download = Download(
        url=url, store=store, limits=limits, max_bytes=max_bytes, sha256=sha256, progress=progress
    )
    if sha256 and _holds(store.blob(sha256), sha256):
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


def fetch_one(
    reference: Url, *, offline: bool, limits: Limits, max_bytes: int, progress: OnProgress | None
) -> Path:
    """`fetch_file`, where the file must be there."""
    path = fetch_file(
        reference.url, limits=limits, max_bytes=max_bytes, sha256=reference.sha256,
        offline=offline, progress=progress,
    )  # fmt: skip
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


def _strong(etag: str | None) -> str | None:
    """An ETag that vouches for every byte (RFC 9110, 8.8.3)."""
    return etag if etag and etag.startswith('"') else None


def _holds(blob: Path, sha256: str) -> bool:
    """Whether a blob is there and still what its name says; a damaged one is removed."""
    try:
        with blob.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
    if not whole:
        with suppress(OSError):
            blob.unlink()
    return whole


def _used(blob: Path) -> Path:
    touch(blob)
    return blob
