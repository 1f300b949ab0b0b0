"""Files read and written at any place by several threads, and copied by the system where it can."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from lorakit.errors import SourceError

FLUSH = 128 << 20  # bytes written after which the disk is set to work, so that the end is short
AT_ONCE = 1 << 30  # bytes of one call: macOS refuses 2 GiB and more
CHUNK = 1 << 20  # bytes moved at a time where the system does not copy
_BINARY = getattr(os, "O_BINARY", 0)
_UNCOPYABLE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}
_NO_RESERVE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
_POSITIONED = hasattr(os, "preadv") and hasattr(os, "pwrite")  # not on Windows


class Source:
    """A file to read from. Raises SourceError where it cannot be read or became shorter."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self.handle = os.open(path, os.O_RDONLY | _BINARY)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}") from error

    def read(self, into: memoryview, at: int) -> None:
        """Fill the buffer from this place on."""
        try:
            while into.nbytes:
                count = self._read(into, at)
                if count == 0:
                    raise SourceError(f"{self.path} became shorter while it was read")
                into, at = into[count:], at + count
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _read(self, into: memoryview, at: int) -> int:
        if _POSITIONED:
            return os.preadv(self.handle, [into[:AT_ONCE]], at)
        with self._lock:
            os.lseek(self.handle, at, os.SEEK_SET)
            data = os.read(self.handle, min(into.nbytes, AT_ONCE))
        into[: len(data)] = data
        return len(data)

    def close(self) -> None:
        os.close(self.handle)


class Target:
    """A new file of known size, flushed to the disk at the end; its methods raise OSError.

    A context manager that stays behind half-written where its block fails: whoever made the folder
    removes that.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _BINARY, 0o666)
        self._lock = threading.Lock()
        self._flusher = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None
        self._written = 0
        try:
            _reserve(self._handle, size)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def write(self, data: memoryview, at: int) -> None:
        """Write at a place; from any thread."""
        self._count(data.nbytes)
        while data.nbytes:
            if _POSITIONED:
                written = os.pwrite(self._handle, data[:AT_ONCE], at)
            else:
                with self._lock:
                    os.lseek(self._handle, at, os.SEEK_SET)
                    written = os.write(self._handle, data[:AT_ONCE])
            data, at = data[written:], at + written

    def copy(self, source: Source, begin: int, at: int, nbytes: int) -> None:
        """Copy a part of another file to a place; from any thread."""
        moved = self._copy_by_system(source, begin, at, nbytes)
        self._count(moved)
        buffer = memoryview(bytearray(min(CHUNK, nbytes - moved)))
        while moved < nbytes:
            piece = buffer[: nbytes - moved]
            source.read(piece, begin + moved)
            self.write(piece, at + moved)
            moved += piece.nbytes

    def _copy_by_system(self, source: Source, begin: int, at: int, nbytes: int) -> int:
        """How many bytes the system copied: all, unless it cannot between these two files."""
        moved = 0
        while moved < nbytes and hasattr(os, "copy_file_range"):
            try:
                count = os.copy_file_range(
                    source.handle, self._handle, nbytes - moved, begin + moved, at + moved
                )
            except OSError as error:
                if error.errno in _UNCOPYABLE:
                    break
                raise
            if count == 0:
                break
            moved += count
        return moved

    def _count(self, nbytes: int) -> None:
        """Set the disk to work now and then, one flush at a time."""
        with self._lock:
            self._written += nbytes
            idle = self._flushing is None or self._flushing.done()
            if self._written >= FLUSH and idle:
                self._written = 0
                self._require_flushed()
                self._flushing = self._flusher.submit(os.fsync, self._handle)

    def _require_flushed(self) -> None:
        """Raise what an earlier flush did: the system tells of a lost write only once."""
        if self._flushing is not None:
            self._flushing.result()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._flusher.shutdown()
            if kind is None:
                self._require_flushed()
                os.fsync(self._handle)
        finally:
            os.close(self._handle)


def _reserve(handle: int, size: int) -> None:
    """Take the room on the disk at once where the file system can, so that a full one says so."""
    if not hasattr(os, "posix_fallocate"):
        os.truncate(handle, size)
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in _NO_RESERVE:
            raise
