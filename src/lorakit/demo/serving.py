"""A server for the files of one site, on this machine alone.

It knows a table of addresses, not a folder: what is not in the table does not exist, whatever a
path looks like. Its headers isolate the page, which gives onnxruntime its threads.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lorakit.errors import ParameterError

HOST = "127.0.0.1"
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
        name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        content = self.server.files.get(name)
        if content is None:
            self._say(HTTPStatus.NOT_FOUND, "text/plain", len(b"not found\n"))
            if with_body:
                self.wfile.write(b"not found\n")
            return
        kind = KINDS.get(Path(name).suffix, "application/octet-stream")
        if isinstance(content, bytes):
            self._say(HTTPStatus.OK, kind, len(content))
            if with_body:
                self.wfile.write(content)
            return
        with content.open("rb") as file:
            self._say(HTTPStatus.OK, kind, content.stat().st_size)
            if with_body:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _say(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the library does not print."""
