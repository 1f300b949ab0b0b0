"""A server for the files of one site, on this machine alone.

It knows a table of addresses, not a folder: what is not in the table does not exist, whatever a
path looks like. Its headers isolate the page, which gives onnxruntime its threads.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from lorakit.errors import ParameterError

HOST = "127.0.0.1"
BLOCK = 1 << 20  # bytes of a file that are read at a time
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Content = Path | bytes


class SiteServer(ThreadingHTTPServer):
    """Serves a table: an address without its leading slash -> a file, or bytes."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, Content], port: int) -> None:
        """Raises ParameterError where the port cannot be had. port 0: any that is free."""
        self.files = dict(files)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ParameterError(
                f"port {port} cannot be used: {error.strerror or error}",
                hint="another --port, or --port 0 for any that is free",
            ) from error

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that left is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: SiteServer
    protocol_version = "HTTP/1.1"
    server_version = "lorakit"
    sys_version = ""
    timeout = 60  # of a connection that says nothing

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        content = self._content()
        if isinstance(content, HTTPStatus):
            text = content.phrase.lower().encode() + b"\n"
            self._say(content, "text/plain", len(text))
            if with_body:
                self.wfile.write(text)
            return
        size = len(content) if isinstance(content, bytes) else os.fstat(content.fileno()).st_size
        with io.BytesIO(content) if isinstance(content, bytes) else content as file:
            self._say(HTTPStatus.OK, self._kind(), size)
            if with_body:
                self._send(file, size)

    def _content(self) -> bytes | BinaryIO | HTTPStatus:
        """What is at the address; or why nothing is."""
        try:
            content = self.server.files.get(self._name())
            found = content.open("rb") if isinstance(content, Path) else content
        except ValueError:  # an address that is none
            return HTTPStatus.BAD_REQUEST
        except OSError:  # a file that was there when the table was made
            return HTTPStatus.NOT_FOUND
        return HTTPStatus.NOT_FOUND if found is None else found

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"

    def _kind(self) -> str:
        return KINDS.get(Path(self._name()).suffix, "application/octet-stream")

    def _send(self, file: BinaryIO, size: int) -> None:
        """So many bytes; of a file that became shorter meanwhile, no more than there are."""
        left = size
        while left and (piece := file.read(min(left, BLOCK))):
            self.wfile.write(piece)
            left -= len(piece)
        self.close_connection |= left > 0

    def _say(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the library does not print."""
