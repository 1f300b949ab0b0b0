"""What an upload sends, how far it is, and how it ends."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lorakit.errors import SourceError
from lorakit.files.bounded import open_regular
from lorakit.files.cache import digest_of
from lorakit.sources.limits import OnProgress, Progress

LOOKED = 0.1  # seconds between looks at whether it still moves
GRACE = 1.0  # seconds that a stopped upload has to notice
AGAIN = "nothing was published; push again: what is there already is not sent again"

T = TypeVar("T")
Tell = Callable[[str, int, int], None]  # a file's name, what of it is sent, its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file is to be: a file of this machine, or bytes."""

    source: Path | bytes = field(repr=False)
    size: int
    sha256: str

    @classmethod
    def of(cls, source: Path | bytes) -> Content:
        """Raises OSError, and SourceError for what is no regular file."""
        if isinstance(source, bytes):
            digest = hashlib.sha256(source).hexdigest()
            return cls(source=source, size=len(source), sha256=digest)
        return cls(source=source, size=source.stat().st_size, sha256=digest_of(source))

    def blob(self) -> str:
        """Git's name for it, by which a repository knows its small files."""
        found = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with opened(self.source) as file:
            while piece := file.read(1 << 20):
                found.update(piece)
        return found.hexdigest()


def opened(source: Path | bytes) -> io.RawIOBase | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)


class StoppedError(Exception):
    """Raised where an upload goes on that was ended."""


class Pace:
    """Runs an upload in a thread of its own, and ends it with Ctrl-C or when nothing moves.

    The client itself waits for a silent server for ever.
    """

    def __init__(self, place: str, seconds: float) -> None:
        self.fault: BaseException | None = None  # what `progress` raised
        self._place, self._seconds = place, seconds
        self._until = 0.0
        self._stopped = threading.Event()

    def step(self) -> None:
        """Something moved."""
        if self._stopped.is_set():
            raise StoppedError
        self._until = time.monotonic() + self._seconds

    def run(self, work: Callable[[], T]) -> T:
        done, found, raised = threading.Event(), list[T](), list[BaseException]()

        def body() -> None:
            try:
                found.append(work())
            except BaseException as error:
                raised.append(error)
            finally:
                done.set()

        self.step()
        threading.Thread(target=body, name="lorakit-upload", daemon=True).start()
        try:
            while not done.wait(LOOKED):
                if time.monotonic() > self._until:
                    raise self._late()
        except BaseException:
            self._stopped.set()  # it ends where it next reads, or with its connection
            done.wait(GRACE)
            raise
        if raised:
            raise raised[0]
        return found[0]

    def _late(self) -> SourceError:
        return SourceError(
            f"cannot push to {self._place}: nothing moved for {self._seconds:g} seconds",
            code="source_unreachable",
            hint=AGAIN,
        )


def teller(source: str, progress: OnProgress | None) -> Tell:
    """From a file's name, what is sent and its size to a Progress."""

    def tell(file: str, done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(source=source, file=file, done=done, total=total))

    return tell


class Told(io.BufferedReader):
    """A file that tells how far it is read."""

    def __init__(self, content: Content, name: str, pace: Pace, tell: Tell) -> None:
        super().__init__(opened(content.source))
        self.sent = 0  # bytes; all of it where any is
        self._content, self._name, self._pace, self._tell = content, name, pace, tell
        self._counting = False

    def require_same(self, sha256: str) -> None:
        """From here on what is read is sent. Raises SourceError where it is another file now."""
        if sha256 != self._content.sha256:
            raise SourceError(
                f"{self._name} changed while it was pushed",
                code="source_mismatch",
                hint="push again when nothing writes into the folder",
            )
        self._counting = True

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self._pace.step()
        if self._counting:
            self.sent = self._content.size
            try:
                self._tell(self._name, self.tell(), self._content.size)
            except BaseException as error:
                self._pace.fault = error
                raise
        return piece
