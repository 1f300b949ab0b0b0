"""A process that was forked, and one that ends, beside an open engine."""

import os
import subprocess
import sys
import threading

import pytest

from lorakit import processes
from lorakit.engines.fake import FakeEngine
from lorakit.errors import ClosedError
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.protocol import Submission
from lorakit.runtime.thread import EngineThread
from runtime_cases import Numbers, in_child

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a POSIX matter")


def submit(thread, **options):
    params = SamplingParams(max_tokens=100)
    return thread.submit(Submission(prompt=(1, 2), params=params, decoder=Numbers(), **options))


@pytest.fixture
def thread():
    thread = EngineThread(lambda: FakeEngine(step_seconds=0.002), max_queue=64)
    thread.wait_open()
    yield thread
    thread.close()


# Forked while another thread holds the locks, as happens where a server forks under load.
@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_child_the_model_is_closed_and_says_so(thread):
    held, go = threading.Event(), threading.Event()
    stream = submit(thread, lookahead=0)
    stream.next_piece()

    def hold():
        with thread._room, stream._condition:
            held.set()
            go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    try:
        for work in (
            lambda: submit(thread),
            lambda: thread.logits([1], ()),
            lambda: thread.call(lambda scheduler: None),
            lambda: [stream.next_piece() for _ in range(3)],
            lambda: stream.result(5),
        ):
            assert "ClosedError: the model was opened before this process was" in in_child(work)[0]
        assert in_child(thread.close) == ("None", 0)
    finally:
        go.set()
        holder.join()
    assert len(stream.result(30).tokens) == 100  # the parent's goes on


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_without_the_hook_a_child_would_wait(thread, monkeypatch):
    """The test above sees the fault: a child that is not told waits for a thread that it lacks."""
    monkeypatch.setattr(processes, "_OWNERS", {})
    assert "TimeoutError" in in_child(lambda: submit(thread).result(0.5))[0]


def test_an_open_engine_is_closed_when_the_process_ends(tmp_path):
    code = """
import sys
from lorakit.engines.fake import FakeEngine
from lorakit.runtime.thread import EngineThread
class Told(FakeEngine):
    def close(self):
        open(sys.argv[1], "w").close()
thread = EngineThread(Told, max_queue=4)
thread.wait_open()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "closed")], check=True, timeout=60)
    assert (tmp_path / "closed").exists()


OPENING = """
import sys, time
from lorakit import processes
from lorakit.runtime.thread import EngineThread
def opening():  # as a session of ONNX Runtime is made, which nothing can interrupt
    while not processes._ending:
        time.sleep(0.01)
    time.sleep(0.3)
    print("opened", flush=True)
    raise SystemExit
{change}
EngineThread(opening, max_queue=4).close()
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [("", "opened\n"), ("processes.AT_END = 0.0", "")],
    ids=["waits", "does not"],
)
def test_an_engine_that_is_being_opened_when_the_process_ends_is_waited_for(change, said):
    """Else its thread would come back from native code after Python's end: exit code 134."""
    done = subprocess.run(
        [sys.executable, "-c", OPENING.format(change=change)], capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == (said, 0), done.stderr


def test_a_closed_thread_refuses_in_its_own_process(thread):
    thread.close()
    with pytest.raises(ClosedError, match="the model is closed"):
        submit(thread)
