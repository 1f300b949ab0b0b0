"""One request to a server: what is sent, what comes back, in which time, and how it is ended.

No redirect is followed: a key is for the server that it was given for. Whatever goes wrong is one
of lorakit's errors.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lorakit.errors import CancelledError, DeadlineError, LorakitError, ServerError
from lorakit.files.bounded import parse_json
from lorakit.remote.event_stream import events
from lorakit.remote.refusals import RefusalError
from lorakit.remote.server import Server
from lorakit.remote.waiting import Waiting
from lorakit.sources.address import AddressError
from lorakit.sources.reference import shown
from lorakit.sources.transport import PRIVATE, REDIRECTS, exchange, retry_after, words_of
from lorakit.sources.wire import ProtocolError, Response, SlowError

MAX_JSON = 16 << 20  # bytes of an answer that comes in one piece
MAX_REFUSAL = 1 << 16  # bytes that are read of an error
STREAM, WHOLE = "text/event-stream", "application/json"


class Connection:
    """One request. `abort` ends it from any thread."""

    def __init__(self, server: Server, waiting: Waiting) -> None:
        self._server = server
        self._waiting = waiting
        self._socket: socket.socket | None = None
        self._aborted = False

    def abort(self) -> None:
        """End it, at once where the connection stands. Takes no lock and does not wait.

        The server sees its client go, and stops generating.
        """
        self._aborted = True
        if (sock := self._socket) is not None:
            with suppress(OSError):  # an encrypted one's own method would touch what is being read
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def ask(self, url: str, body: object = None) -> Any:
        """The JSON of an answer, or the text of one that is none; a POST where there is a body.

        Raises RefusalError for a status other than 200, DeadlineError, CancelledError, ServerError.
        """
        with self._opened(url, body) as response:
            content = _upto(response, MAX_JSON)
            if len(content) > MAX_JSON:
                raise ProtocolError(f"its answer has more than {MAX_JSON} bytes")
            if _kind(response) != WHOLE:
                return content.decode("utf-8", "replace")
            return self.parsed(content)

    def stream(self, url: str, body: object, limit: int) -> Generator[Any, None, None]:
        """The JSON of each event of an answer, until it says that it is done.

        limit: bytes of the whole answer. Raises as `ask`; also where the connection ends too early.
        """
        with self._opened(url, body) as response:
            if (kind := _kind(response)) != STREAM:
                raise self.broken(f"it answers with {kind[:60]!a}, not {STREAM}")
            for data in events(response.read, limit):
                if data.strip() == b"[DONE]":
                    return
                yield self.parsed(data)
                self._waiting.begin(self._waiting.waits.next)

    def parsed(self, content: bytes) -> Any:
        try:
            return parse_json(content)
        except ValueError as error:
            raise self.broken(f"it sends what is no JSON: {error}") from error

    def broken(self, what: str) -> ServerError:
        """What to raise where the server breaks its word."""
        return ServerError(
            f"{self._server}: {self._server.without_key(what)}",
            code="server_invalid",
            hint="is this the URL of an OpenAI-compatible API, such as https://host/v1",
        )

    @contextmanager
    def _opened(self, url: str, body: object) -> Iterator[Response]:
        content = None if body is None else _encoded(body)
        with self._errors():
            response, _ = exchange(
                url,
                self._server.headers,
                self._waiting,
                self._server.allowed,
                body=content,
                dialled=self._dialled,
            )
            with response:
                self._require_answer(response)
                yield response

    def _dialled(self, sock: socket.socket) -> None:
        self._socket = sock
        if self._aborted:  # it came while the connection was made
            raise OSError
        self._waiting.begin(self._waiting.waits.first)

    def _require_answer(self, response: Response) -> None:
        if response.status in REDIRECTS:
            place = shown(str(response.headers.get("Location", "")))[:200]
            raise self.broken(f"it redirects ({response.status}) to {place}; none is followed")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise self.broken("it answers in a compression that was not asked for")
        if response.status != 200:
            wait = retry_after(response.headers.get("Retry-After"))
            said = b""
            with suppress(OSError, http.client.HTTPException):
                said = _upto(response, MAX_REFUSAL)[:MAX_REFUSAL]
            raise RefusalError(response.status, said, wait)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever fails, as one of lorakit's errors."""
        try:
            yield
        except (RefusalError, LorakitError):
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> LorakitError:
        if self._aborted:
            return CancelledError("the request was cancelled")
        if self._waiting.late:
            return DeadlineError(f"the deadline passed while {self._server} answered")
        if isinstance(error, ProtocolError | http.client.HTTPException):
            return self.broken(words_of(error))
        hint = "is the server running"
        reason = words_of(error)
        if isinstance(error, AddressError):
            hint = PRIVATE if "no single machine" not in reason else ""
        elif isinstance(error, ssl.SSLCertVerificationError):
            reason, hint = f"its certificate is not valid: {error.verify_message}", ""
        elif isinstance(error, SlowError | TimeoutError):
            reason = f"it says nothing for {self._waiting.seconds:g} seconds"
        return ServerError(
            f"{self._server} cannot be reached: {self._server.without_key(reason)}",
            code="server_unreachable",
            hint=hint,
        )


def _upto(response: Response, limit: int) -> bytes:
    """The body, or as much of it as makes more than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while size != response.length and size <= limit and (piece := response.read()):
        parts.append(piece)
        size += len(piece)
    return b"".join(parts)


def _kind(response: Response) -> str:
    return str(response.headers.get_content_type()).lower()


def _encoded(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
