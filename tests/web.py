"""A web server on loopback that answers as a test says, faults included."""

import hashlib
import socket
import ssl
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAST = {"timeout": 5.0, "retries": 2, "backoff": 0.01, "max_wait": 0.5}


@dataclass
class Page:
    """What a path answers. Lists are used up answer by answer; the last one stays."""

    body: bytes = b""
    etag: str | None = "auto"
    statuses: list[int] = field(default_factory=lambda: [200])
    cut: list[int | None] = field(default_factory=lambda: [None])  # bytes sent before breaking off
    announce: int | None = None  # a Content-Length that is not so
    stall: list[float] = field(default_factory=lambda: [0.0])  # seconds after the first bytes
    ranges: bool = True
    if_range: bool = True
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def tag(self):
        return f'"{hashlib.md5(self.body).hexdigest()}"' if self.etag == "auto" else self.etag


def take(values):
    return values.pop(0) if len(values) > 1 else values[0]


class Web:
    """Pages by path, and what was asked for."""

    def __init__(self):
        self.pages: dict[str, Page] = {}
        self.asked: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.url = ""

    def put(self, path, body=b"", **options):
        self.pages[path] = Page(body=body, **options)
        return self.url + path

    def put_folder(self, path, folder):
        for file in folder.iterdir():
            if file.is_file():
                self.put(f"{path}/{file.name}", file.read_bytes())
        return f"{self.url}{path}"

    @property
    def count(self):
        return sum(map(len, self.asked.values()))


@contextmanager
def serving():
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            path = self.path.partition("?")[0]
            web.asked[path].append(dict(self.headers.items()))
            answer(self, web.pages.get(path) or Page(body=b"no", statuses=[404]))

        def do_HEAD(self):
            self.do_GET()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, address):
            pass  # clients that went away are what is tested

    server = Server(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler, page):
    status, body, tag = take(page.statuses), page.body, page.tag()
    extra = {}
    if status == 200 and tag and handler.headers.get("If-None-Match") == tag:
        status, body = 304, b""
    asked = handler.headers.get("Range")
    same = not page.if_range or handler.headers.get("If-Range") == tag
    if status == 200 and asked and page.ranges and same:
        begin = int(asked.removeprefix("bytes=").rstrip("-"))
        if begin < len(body):
            extra["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[begin:]
        else:
            status, body = 416, b""
    handler.send_response(status)
    for name, value in {**extra, **page.headers}.items():
        handler.send_header(name, value)
    if tag:
        handler.send_header("ETag", tag)
    if page.chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    elif status != 304:
        length = len(body) if page.announce is None else page.announce
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    if handler.command == "HEAD" or status == 304:
        return
    write(handler, page, body)


def write(handler, page, body):
    cut, stall = take(page.cut), take(page.stall)
    sent = body if cut is None else body[:cut]
    if page.chunked:
        sent = b"%x\r\n%s\r\n" % (len(body), sent) + (b"0\r\n\r\n" if cut is None else b"")
    handler.wfile.write(sent)
    handler.wfile.flush()
    if stall:
        time.sleep(stall)
    if cut is not None or page.announce is not None:
        handler.close_connection = True


class Raw:
    """A server that answers with the bytes that a test makes, however they break HTTP."""

    def __init__(self, script):
        self._script = script
        self.heads: list[bytes] = []  # what was asked, one for each connection
        self.url = ""

    def serve(self, listener, context):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection, context), daemon=True).start()

    def _answer(self, connection, context):
        with suppress(OSError), connection:
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                head += (piece := connection.recv(4096))
                if not piece:
                    return
            self.heads.append(head)
            with connection:
                for piece in self._script(head):
                    connection.sendall(piece)


@contextmanager
def raw_serving(script, *, host="127.0.0.1", tls=None, family=socket.AF_INET):
    """script: from the head of a request to the pieces of the answer, endless ones too.

    tls: a folder with cert.pem and key.pem; the server speaks https then.
    """
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    server = Raw(script)
    with socket.create_server((host, 0), family=family) as listener:
        shown = f"[{host}]" if ":" in host else host
        server.port = listener.getsockname()[1]
        server.url = f"http{'s' if tls else ''}://{shown}:{server.port}"
        thread = threading.Thread(target=server.serve, args=(listener, context), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()
