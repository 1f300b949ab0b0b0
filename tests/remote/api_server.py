"""A server of OpenAI's API on loopback that says what a test makes it say, lies included."""

import json
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

JSON, EVENTS = "application/json", "text/event-stream"
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "somebody"}]}


@dataclass
class Asked:
    path: str
    head: bytes
    body: dict | None


def whole(value, status=200, kind=JSON, **headers):
    """An answer in one piece: a JSON value, or bytes as they are."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {said}" for name, said in headers.items()]
    yield "\r\n".join([*lines, "", ""]).encode() + content


def events(*values, done=True, kind=EVENTS, status=200):
    """An answer of events: JSON values, bytes as they are, or functions to call in between."""
    yield f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
    for value in values:
        if callable(value):
            value()
        elif isinstance(value, bytes):
            yield value
        else:
            yield b"data: " + json.dumps(value).encode() + b"\n\n"
    if done:
        yield b"data: [DONE]\n\n"


def text(piece, finish=None):
    """A chunk of /completions."""
    return {"choices": [{"index": 0, "text": piece, "finish_reason": finish}]}


def delta(finish=None, **fields):
    """A chunk of /chat/completions."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def usage(prompt=3, completion=2, **more):
    said = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return {"choices": [], "usage": said}


@dataclass
class Api:
    """By path, what makes the pieces of an answer from the JSON that was sent."""

    answers: dict = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client went too early
    url: str = ""

    def of(self, path):
        return [one for one in self.asked if one.path == path]

    def serve(self, listener, context):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection, context), daemon=True).start()

    def _answer(self, connection, context):
        with suppress(ssl.SSLError, ConnectionResetError), connection:
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as file:
                head = b"".join(iter(file.readline, b"\r\n"))
                length = [line for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"]
                body = json.loads(file.read(int(length[0][15:]))) if length else None
                path = head.split(b" ")[1].decode()
                self.asked.append(Asked(path, head, body))
                missing = lambda body: whole({"error": {"message": "File Not Found"}}, 404)  # noqa: E731
                try:
                    for piece in self.answers.get(path, missing)(body):
                        connection.sendall(piece)
                except OSError:
                    self.left.set()


@contextmanager
def api_serving(tls=None, models=MODELS, **answers):
    """answers: by path, with __ for /: v1__completions. tls: the folder of a certificate."""
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    api = Api()
    api.answers["/v1/models"] = lambda body: whole(models)
    for name, answer in answers.items():
        api.answers["/" + name.replace("__", "/")] = answer
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=api.serve, args=(listener, context), daemon=True)
        thread.start()
        try:
            yield api
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()
