"""The programs of docs/services.md, each run as its page says: forked, spawned, served."""

import asyncio
import io
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from runtime_cases import in_child

PAGE = (Path(__file__).parents[1] / "docs/services.md").read_text("utf-8")
BLOCK = re.compile(r"^```python\n# (?P<name>[\w.]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
ASKED, PIRATE, PLAIN = "who are you", "Arr, I be a small demo pirate.", "I am a small demo model."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The page's programs as files, in the working folder."""
    found = {block["name"]: block["code"] for block in BLOCK.finditer(PAGE)}
    assert found.keys() == {"server.py", "gunicorn.conf.py", "asgi.py", "pool.py", "program.py"}
    for name, code in found.items():
        (tmp_path / name).write_text(code, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("server", "asgi"):
        sys.modules.pop(name, None)


def asked(application):
    """What a WSGI application answers."""
    body = ASKED.encode()
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    status = []
    parts = application(environ, lambda line, headers: status.append(line))
    assert status == ["200 OK"]
    return b"".join(parts).decode()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a POSIX matter")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_server_that_is_imported_before_the_fork(folder):
    import server  # as --preload does

    settings = runpy.run_path(str(folder / "gunicorn.conf.py"))
    assert settings["preload_app"]

    def work():
        settings["post_worker_init"](None)
        return asked(server.application)

    for _ in range(settings["workers"]):
        assert in_child(work) == (PIRATE, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a POSIX matter")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_model_that_was_opened_before_the_fork_says_so(folder):
    """The broken variant."""
    import server

    with server.model():
        said, status = in_child(lambda: asked(server.application))
        assert said.startswith("ClosedError: the model was opened before this process was forked")
        assert status == 0
        assert asked(server.application) == PIRATE


def test_an_asgi_server_opens_at_startup_and_closes_at_the_end(folder):
    import asgi

    async def serve():
        sent, events = [], asyncio.Queue()

        async def send(message):
            sent.append(message)

        await events.put({"type": "lifespan.startup"})
        life = asyncio.create_task(asgi.application({"type": "lifespan"}, events.get, send))
        while not sent:
            await asyncio.sleep(0.01)
        body = asyncio.Queue()
        await body.put({"type": "http.request", "body": ASKED.encode()})
        await asgi.application({"type": "http"}, body.get, send)
        await events.put({"type": "lifespan.shutdown"})
        await life
        return sent

    sent = asyncio.run(serve())
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete", "http.response.start", "http.response.body",
        "lifespan.shutdown.complete",
    ]  # fmt: skip
    assert sent[2]["body"].decode() == PLAIN
    assert asgi.model.closed


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_pool_of_processes(folder, method):
    program = folder / "pool.py"
    text = program.read_text("utf-8")
    assert text.count('METHOD = "spawn"') == 1
    program.write_text(text.replace('"spawn"', repr(method), 1), "utf-8")
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == f"{[PLAIN, PLAIN]}\n", done.stderr


def test_a_program_that_supports_to_be_frozen_runs_as_ever(folder):
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["here", "the", "program", "begins"]
