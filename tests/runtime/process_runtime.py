"""A Runtime whose engine lives in a child process: what the seam must carry, and nothing more.

It is small on purpose. Every call goes over a pipe; text comes back when it is asked for.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from concurrent.futures import Future

from lorakit.adapter import Adapter
from lorakit.engines.fake import FakeEngine
from lorakit.errors import ClosedError, LorakitError
from lorakit.runtime.generation import Generation
from lorakit.runtime.thread import EngineThread

METHODS = ("unload", "activate", "logits", "hidden", "save_state", "load_state")


class ProcessRuntime:
    """See lorakit.runtime.protocol.Runtime."""

    def __init__(self, *, max_queue=64, **engine):
        context = multiprocessing.get_context("spawn")
        self.max_queue = max_queue
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=serve, args=(theirs, max_queue, engine), daemon=True)
        self._child.start()
        theirs.close()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._futures, self._generations = {}, {}
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def capabilities(self):
        return self._ask("capabilities").result()

    @property
    def closed(self):
        return self._closed

    def require_open(self):
        if self._closed:
            raise ClosedError("the model is closed", hint="open it again")

    def submit(self, submission):
        generation = Generation(
            submission.prompt, submission.params, adapters=submission.adapters,
            deadline=submission.deadline, lookahead=submission.lookahead,
        )  # fmt: skip
        name = next(self._ids)
        self._generations[name] = generation
        generation.interrupt = lambda: self._send(name, "cancel")
        generation.wake = lambda: self._send(name, "free" if self._is_free(generation) else "next")
        self._ask("submit", name, submission).result()
        if submission.lookahead is None:
            self._send(name, "free")
        return generation

    @staticmethod
    def _is_free(generation):
        return generation._lookahead is None

    def load(self, name, adapter):
        return self._ask("load", name, adapter.deltas)

    def wait_for_room(self, deadline=None):
        self._ask("wait_for_room", deadline).result()

    def encode_image(self, content):
        return self._ask("encode_image", content).result()

    def begin_close(self):
        self._closed = True
        self._child.terminate()

    def close(self):
        self._closed = True
        if self._child.is_alive():
            self._send(0, "close")
        self._child.join(30)
        self._reader.join(30)

    def _ask(self, method, *arguments):
        self.require_open()
        name, future = next(self._ids), Future()
        self._futures[name] = future
        self._send(name, method, *arguments)
        return future

    def _send(self, *message):
        with self._lock:
            if not self._closed or message[1] == "close":
                self._pipe.send(message)

    def _read(self):
        try:
            while True:
                self._receive(*self._pipe.recv())
        except (EOFError, OSError):
            for future in self._futures.values():
                future.set_exception(ClosedError("the model was closed"))
            for generation in self._generations.values():
                generation.finish(ClosedError("the model was closed"))

    def _receive(self, name, kind, value):
        if kind == "piece":
            self._generations[name].emit(value)
        elif kind == "outcome":
            self._generations.pop(name).finish(value)
        elif kind == "error":
            self._futures.pop(name).set_exception(value)
        else:
            self._futures.pop(name).set_result(value)


for _method in METHODS:
    setattr(ProcessRuntime, _method, lambda self, *args, m=_method, **kw: self._ask(m, *args))


def serve(pipe, max_queue, engine):
    """The child: a thread that owns a fake engine, and one thread for each answer that is read."""
    runtime = EngineThread(lambda: FakeEngine(**engine), max_queue=max_queue)
    lock, wanted = threading.Lock(), {}

    def send(*message):
        with lock:
            pipe.send(message)

    def pump(name, generation, want):
        try:
            while want.acquire() and (piece := generation.next_piece()) is not None:
                send(name, "piece", piece)
            send(name, "outcome", generation.result())
        except LorakitError as error:
            send(name, "outcome", error)

    def answer(name, work):
        try:
            value = work()
            send(name, "value", value.result() if isinstance(value, Future) else value)
        except Exception as error:
            send(name, "error", error)

    while True:
        name, method, *arguments = pipe.recv()
        if method == "close":
            runtime.close()
            return
        if method == "submit":
            known, submission = arguments
            try:
                generation = runtime.submit(submission)
            except LorakitError as error:
                send(name, "error", error)
                continue
            want = threading.Semaphore(0)
            wanted[known] = (generation, want)
            threading.Thread(target=pump, args=(known, generation, want), daemon=True).start()
            send(name, "value", None)
        elif method == "next":
            wanted[name][1].release()
        elif method == "free":
            wanted[name][0]._run_free()
            wanted[name][1].release(1_000_000)
        elif method == "cancel":
            wanted[name][0].cancel()
            wanted[name][1].release(1_000_000)
        elif method == "capabilities":
            answer(name, lambda: runtime.capabilities)
        else:
            work = getattr(runtime, method)
            if method == "load":
                arguments[1] = Adapter(deltas=arguments[1])
            threading.Thread(
                target=answer, args=(name, lambda w=work, a=arguments: w(*a)), daemon=True
            ).start()
