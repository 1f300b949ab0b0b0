"""Chromium, driven by playwright, for the tests of pages."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lorakit.demo import folder, site
from lorakit.demo.serving import SiteServer

VENDOR = Path(str(folder())).parent / "web/vendor/transformers.min.js"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


def need_chromium() -> str:
    """The program; at the top of a file. Without it, or what drives it, the file is skipped."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed", allow_module_level=True)
    if not VENDOR.is_file():
        pytest.skip("transformers.js is not placed (make demo-browser)", allow_module_level=True)
    return program


@contextmanager
def running(program: str):
    """The browser. Closed at the end of a file: while it runs there is an event loop."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class EndingServer(SiteServer):
    """Knows its connections: browsers keep them, and threads would go on answering."""

    def __init__(self, table: dict[str, site.Content], port: int) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(table, port)

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(table: dict[str, site.Content], port: int = 0) -> Iterator[SiteServer]:
    """A site, served in a thread. At the end nothing of it answers any more."""
    with EndingServer(table, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.hang_up()
