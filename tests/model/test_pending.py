"""Loads in the background: what they fetch is told, and cancelling one stops its download."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from itertools import repeat

import pytest

import lorakit
from lorakit import demo
from lorakit.model.pending import PendingLoad
from web import raw_serving

HOME = demo.adapter_path("home")
PIECE = bytes(1 << 12)
SIZE = 1 << 30


class Slow:
    """A server that sends an adapter's config at once, and its weights piece by piece, as told."""

    def __init__(self):
        self.sent, self.more = 0, threading.Event()

    def __call__(self, head):
        config = b"adapter_config.json" in head.split(b"\r\n")[0]
        weights = b"adapter_model.safetensors" in head.split(b"\r\n")[0]
        body = (HOME / "adapter_config.json").read_bytes()
        if config:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        elif weights:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
            for piece in repeat(PIECE, SIZE // len(PIECE)):
                yield piece
                self.sent += len(piece)
                self.more.wait(0.01)
        else:
            yield b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def slow(cache):
    script = Slow()
    with raw_serving(script) as server:
        script.url = f"{server.url}/slow"
        yield script


@pytest.fixture
def model():
    with lorakit.open(demo.base_path(), threads=1) as model:
        yield model


def begin(model, slow, **options):
    """A load whose weights have begun to come, and what was told of it."""
    told, begun = [], threading.Event()

    def tell(progress):
        told.append(progress)
        if progress.file == "adapter_model.safetensors" and progress.done:
            begun.set()

    future = model.load_adapter(slow.url, "slow", progress=tell, wait=False, **options)
    assert begun.wait(60)
    return future, told


def test_cancelling_stops_a_download_that_runs(model, slow):
    future, told = begin(model, slow)
    assert not future.done()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(60)
    assert future.cancelled()
    assert future.cancel()  # again
    assert 0 < max(progress.done for progress in told) < SIZE
    assert model.find("slow") is None
    model.load_adapter(HOME, "slow")  # its name is free


def test_without_it_the_download_goes_on(model, slow, monkeypatch):
    """What the test above would not see if cancelling did nothing."""
    monkeypatch.setattr(PendingLoad, "cancel", Future.cancel)
    future, told = begin(model, slow)
    assert not future.cancel()
    before = len(told)
    while len(told) < before + 5:
        assert not future.done()
        threading.Event().wait(0.01)
    model.close()
    with pytest.raises(lorakit.ClosedError):
        future.result(60)


def test_a_cancelled_coroutine_stops_it(model, slow):
    begun = asyncio.Event()

    async def load():
        loop = asyncio.get_running_loop()

        def tell(progress):
            if progress.done and progress.file.endswith(".safetensors"):
                loop.call_soon_threadsafe(begun.set)

        task = asyncio.ensure_future(model.aload_adapter(slow.url, "slow", progress=tell))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(load())
    while "slow" in model._table._reserved:  # until its thread has ended it
        threading.Event().wait(0.01)
    assert model.find("slow") is None


def test_one_that_has_loaded_when_it_is_cancelled_is_unloaded(model, monkeypatch):
    """Between the end of loading and the future's own."""
    load, future = model._load, None

    def loads(*arguments):
        loaded = load(*arguments)
        assert future.cancel()
        return loaded

    monkeypatch.setattr(model, "_load", loads)
    ready = threading.Event()
    submit = model._loads._threads.submit
    monkeypatch.setattr(
        model._loads._threads,
        "submit",
        lambda *given: submit(lambda: ready.wait(60) and given[0](given[1])),
    )
    future = model.load_adapter(HOME, "home", wait=False)
    ready.set()
    with pytest.raises(CancelledError):
        future.result(60)
    assert model.find("home") is None


def test_cancelling_after_the_end_changes_nothing(model):
    future = model.load_adapter(HOME, "home", wait=False)
    assert future.result(60).name == "home"
    assert not future.cancel()
    assert not future.cancelled()
    assert model.find("home") is not None


def test_progress_is_the_loads_own_or_the_models(web):
    url, own, models = web.put_folder("/home", HOME), [], []
    with lorakit.open(demo.base_path(), threads=1, progress=models.append) as model:
        model.load_adapter(url, "a", progress=own.append)
        assert {progress.file for progress in own} >= {"adapter_model.safetensors"}
        assert not models
        web.put_folder("/again", HOME)
        model.load_adapter(f"{web.url}/again", "b")
        assert models
