"""One HTTP/1.1 response, read from a socket by rules that end: every length, count and wait.

Only what lorakit asks for is understood: a body of an announced length, in chunks, or up to the end
of the connection. What a server says of lengths must be plain and must not contradict itself.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from dataclasses import dataclass, field
from email.message import Message
from typing import BinaryIO, cast

from lorakit.sources.limits import Limits

CHUNK = 1 << 16
MAX_HEAD = 1 << 18  # bytes before a body, of all interim responses together
MAX_INTERIM = 20  # responses 1xx before the real one
MAX_LINE = 1 << 10  # bytes of a status line, and of the line before a chunk
LINGER = 0.25  # seconds in which what follows a body of an announced length shows itself
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")


class WireError(OSError):
    """A response that is not what it should be; another one may be."""


class ProtocolError(WireError):
    """A response that will not be better the next time: it lies, or it never ends."""


class SlowError(WireError):
    """Bytes come, but fewer than Limits.min_rate asks for."""


@dataclass(slots=True, kw_only=True)
class Patience:
    """How long a download may still take. `end` is of `time.monotonic`."""

    limits: Limits
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.limits.deadline

    def left(self) -> float:
        """Seconds that one read may take. Raises SlowError where none are left."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise SlowError(f"it is not done after {self.limits.deadline:g} seconds")
        return min(self.limits.timeout, left)


class Stream(io.RawIOBase):
    """The bytes of a socket, as long as they come fast enough and in time.

    Only time that is spent waiting counts, so that a slow disk or reader is not the server's fault.
    """

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        self._patience = patience
        self._waited: float | None = None  # seconds, since the first byte came
        self._got = 0  # bytes in that time
        self._head: int | None = MAX_HEAD  # bytes that may still come before or after the body
        self._lingering = False

    def readable(self) -> bool:
        return True

    def expect(self, head: int | None) -> None:
        """Bound the bytes that may come next; None is for the body, which others bound."""
        self._head = head

    def linger(self) -> None:
        """Wait but a moment from now on, and take a failure for the end."""
        self._lingering = True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wait = self._patience.left()
        self._sock.settimeout(min(LINGER, wait) if self._lingering else wait)
        begin = time.monotonic()
        try:
            count = self._sock.recv_into(buffer)
        except OSError:
            if self._lingering:
                return 0
            self._patience.left()  # where that is why
            raise
        self._check_rate(count, time.monotonic() - begin)
        if self._head is not None:
            self._head -= count
            if self._head < 0:
                raise ProtocolError(f"it sends more than {MAX_HEAD} bytes that are not of the file")
        return count

    def _check_rate(self, count: int, seconds: float) -> None:
        """Until the first byte the server thinks, for which the time of one read is the bound."""
        limits = self._patience.limits
        self._waited = 0.0 if self._waited is None else self._waited + seconds
        self._got += count
        if self._waited >= limits.rate_time:
            rate = self._got / self._waited
            if rate < limits.min_rate:
                raise SlowError(f"it sends {rate:.0f} bytes per second; least {limits.min_rate:g}")
            self._waited, self._got = 0.0, 0


class Response:
    """An answer: its status and headers, and a body to `read`. Close it, or use it in a `with`."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        self._stream = Stream(sock, patience)
        self._file = io.BufferedReader(self._stream, CHUNK)
        self.status, self.headers = _head(cast(BinaryIO, self._file))
        self._stream.expect(None)
        self.length = _length(self.headers)  # bytes of the body; None where nobody says
        self._chunked = _is_chunked(self.headers)
        if self._chunked and self.length is not None:
            raise ProtocolError("it announces a length and sends chunks")
        self._chunks = 0
        self._left = 0 if self._chunked else self.length  # of this chunk, or of the body
        self._ended = self.status in (204, 304)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def read(self) -> bytes:
        """The next piece of the body, empty at its end.

        Raises OSError (TimeoutError, WireError, SlowError), also for a body that ends too early.
        """
        if not self._left and self._left is not None and not self._ended:
            self._left = self._next_chunk() if self._chunked else self._require_end()
            self._ended = not self._left
        if self._ended:
            return b""
        piece = self._file.read1(CHUNK if self._left is None else min(CHUNK, self._left))
        if self._left is not None:
            if not piece:
                raise WireError(f"the connection ended {self._left} bytes too early")
            self._left -= len(piece)
        self._ended = not piece
        return piece

    def _require_end(self) -> int:
        """The announced length has come: nothing may follow, for the connection is to be closed."""
        self._stream.linger()
        if self._file.read1(1):
            raise ProtocolError(f"it sends more than the {self.length} bytes that it announced")
        return 0

    def _next_chunk(self) -> int:
        """The size of the next chunk; 0 at the end, after what trails."""
        file = cast(BinaryIO, self._file)
        if self._chunks and _line(file, 3) not in (b"\r\n", b"\n"):
            raise ProtocolError("a chunk has not the length that it says")
        self._chunks += 1
        found = _CHUNK.fullmatch(_line(file, MAX_LINE))
        if not found:
            raise ProtocolError("it sends broken chunks")
        size = int(found[1], 16)
        if size == 0:
            self._stream.expect(MAX_HEAD)
            http.client.parse_headers(self._file)
        return size


def _head(file: BinaryIO) -> tuple[int, Message]:
    """Status and headers of the first response that is not an interim one."""
    for _ in range(MAX_INTERIM):
        found = _STATUS.fullmatch(_line(file, MAX_LINE))
        if not found:
            raise ProtocolError("it does not speak HTTP")
        headers = http.client.parse_headers(file)
        if headers.defects or not all(map(_FIELD.fullmatch, headers.keys())):
            raise ProtocolError("its headers are broken")
        if int(found[1]) >= 200:
            return int(found[1]), headers
    raise ProtocolError(f"it sends more than {MAX_INTERIM} interim responses")


def _line(file: BinaryIO, limit: int) -> bytes:
    """A line, or as much of one. Raises WireError where the connection ends in it."""
    line = file.readline(limit)
    if len(line) < limit and not line.endswith(b"\n"):
        raise WireError("the connection ended too early")
    return line


def _length(headers: Message) -> int | None:
    """The announced length. Raises WireError for what is no length, or for several."""
    values = [str(value) for value in headers.get_all("Content-Length", ())]
    said = {part.strip(" \t") for value in values for part in value.split(",")}
    if not said:
        return None
    if len(said) > 1 or not _NUMBER.fullmatch(first := said.pop()):
        raise ProtocolError("its Content-Length is not one number")
    return int(first)


def _is_chunked(headers: Message) -> bool:
    said = ", ".join(map(str, headers.get_all("Transfer-Encoding", ()))).strip().lower()
    if said not in ("", "identity", "chunked"):
        raise ProtocolError(
            f"it sends the transfer encoding {said[:40]!a}, which was not asked for"
        )
    return said == "chunked"
