"""The engine's thread and what callers hold, with real threads and coroutines."""

import asyncio
import gc
import threading
import time

import pytest

from lorakit.engines.fake import FakeEngine
from lorakit.errors import CancelledError, ClosedError, DeadlineError, EngineError, QueueFullError
from lorakit.runtime.generation import Stream
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.protocol import Submission
from lorakit.runtime.thread import EngineThread
from runtime_cases import Numbers


def submit(thread, prompt, *, lookahead=None, deadline=None, **options):
    params = SamplingParams(**{"max_tokens": 8, **options})
    given = {"lookahead": lookahead, "deadline": deadline}
    return thread.submit(
        Submission(prompt=tuple(prompt), params=params, decoder=Numbers(), **given)
    )


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def thread(engine):
    thread = EngineThread(lambda: engine, max_queue=64)
    yield thread
    thread.close()


def test_errors_of_opening_reach_the_caller():
    def fail():
        raise EngineError("no such thing")

    with pytest.raises(EngineError, match="no such thing"):
        EngineThread(fail, max_queue=1).wait_open()


def test_a_stream_is_the_completion_in_pieces(thread):
    stream = Stream(submit(thread, [1, 2]))
    assert "".join(stream) == stream.result().text == submit(thread, [1, 2]).result().text


def test_lookahead_zero_computes_a_token_only_when_it_is_asked_for(thread, engine):
    stream = Stream(submit(thread, [1, 2], lookahead=0))
    assert thread.call(lambda scheduler: len(engine.steps)).result() == 0
    for expected in (1, 2, 3):
        next(stream)
        time.sleep(0.01)
        assert len(engine.steps) == expected
    assert stream.result().finish_reason == "length"  # waiting for the end lets it run


def test_threads_streaming_at_once_get_their_own_text(thread):
    expected = {i: submit(thread, [i] * 3).result().text for i in range(16)}
    got = {}

    def read(i):
        got[i] = "".join(Stream(submit(thread, [i] * 3, lookahead=i % 3)))

    readers = [threading.Thread(target=read, args=(i,)) for i in range(16)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert got == expected


def test_coroutines_await_the_same_events(thread):
    async def read(i):
        pieces = [piece async for piece in Stream(submit(thread, [i], lookahead=0))]
        return "".join(pieces), (await submit(thread, [i]).aresult()).text

    async def main():
        return await asyncio.gather(*(read(i) for i in range(10)))

    for streamed, whole in asyncio.run(main()):
        assert streamed == whole


def test_cancel_ends_iteration_and_fails_the_result(thread):
    stream = Stream(submit(thread, [1], max_tokens=200, lookahead=0))
    next(stream)
    stream.cancel()
    assert list(stream) == []
    with pytest.raises(CancelledError):
        stream.result()


def test_a_dropped_stream_is_cancelled(thread):
    stream = Stream(submit(thread, [1], max_tokens=200, lookahead=0))
    next(stream)
    del stream
    gc.collect()
    deadline = time.monotonic() + 5
    while thread.call(lambda scheduler: len(scheduler.running)).result():
        assert time.monotonic() < deadline


def test_cancellation_takes_effect_within_one_token(engine):
    entered, release = threading.Semaphore(0), threading.Semaphore(0)

    def hold(rows):
        entered.release()
        release.acquire(timeout=10)

    engine.before_step = hold
    thread = EngineThread(lambda: engine, max_queue=4)
    stream = Stream(submit(thread, [1], max_tokens=200))
    for step in range(3):
        assert entered.acquire(timeout=10)
        if step == 2:
            stream.cancel()  # while the third step runs
        release.release()
    with pytest.raises(CancelledError):
        stream.result(10)
    assert len(engine.steps) == 3
    thread.close()


def test_a_full_queue_refuses_and_room_can_be_awaited():
    entered, release = threading.Event(), threading.Event()

    def block(rows):
        entered.set()
        release.wait(10)

    engine = FakeEngine(max_batch=1, before_step=block)
    thread = EngineThread(lambda: engine, max_queue=2)
    generations = [submit(thread, [1])]
    assert entered.wait(5)
    generations += [submit(thread, [2]), submit(thread, [3])]
    with pytest.raises(QueueFullError) as caught:
        submit(thread, [4])
    assert caught.value.code == "queue_full"
    release.set()
    thread.wait_for_room()
    generations.append(submit(thread, [4]))
    assert all(generation.result().tokens for generation in generations)
    thread.close()


def test_deadlines_hold_for_streams_that_nobody_reads(thread):
    generation = submit(thread, [1], lookahead=0, deadline=time.monotonic() + 0.05)
    limit = time.monotonic() + 5
    while not generation.done and time.monotonic() < limit:
        time.sleep(0.01)
    with pytest.raises(DeadlineError):
        generation.result(0)


def test_close_fails_what_runs_and_waits_and_frees_the_engine(engine):
    engine.step_seconds = 0.01
    thread = EngineThread(lambda: engine, max_queue=64)
    generations = [submit(thread, [i], max_tokens=200) for i in range(10)]
    thread.close()
    thread.close()
    assert engine.closed
    for generation in generations:
        with pytest.raises(ClosedError):
            generation.result(5)
    with pytest.raises(ClosedError):
        submit(thread, [1])
    with pytest.raises(ClosedError):
        thread.call(lambda scheduler: None)


def test_a_crash_of_the_thread_is_told_to_everybody(thread, engine, caplog):
    def crash():
        raise RuntimeError("boom")

    generations = [submit(thread, [i], lookahead=0) for i in range(9)]
    thread.call(lambda scheduler: setattr(scheduler, "_plan", crash)).result()
    for generation in generations:
        with pytest.raises(EngineError, match="boom"):
            generation.result(5)
    with pytest.raises(ClosedError, match="boom"):  # later callers are told why
        submit(thread, [1])
    with pytest.raises(ClosedError, match="boom"):
        thread.logits([1], ())
    assert "boom" in caplog.text
    assert "Traceback" in caplog.text
    assert engine.closed


def test_a_fault_of_the_engine_ends_one_request_and_not_the_model(thread, engine, caplog):
    def crash(rows):
        if any(9 in row.tokens for row in rows):
            raise RuntimeError("boom")

    engine.before_step = crash
    good, bad = submit(thread, [1, 2]), submit(thread, [9])
    with pytest.raises(EngineError, match="boom"):
        bad.result(5)
    assert good.result(5).text == submit(thread, [1, 2]).result(5).text
    assert "Traceback" in caplog.text


def test_a_finalizer_that_only_signals_waits_for_nobody(thread, engine):
    """Held locks and a busy engine are what the collector may find where it runs."""
    engine.step_seconds = 0.01
    generation = submit(thread, [1], max_tokens=200)
    with thread._room, generation._condition:
        thread.begin_close()
    thread._thread.join(10)
    assert engine.closed
    with pytest.raises(ClosedError):
        generation.result(5)


def test_commands_run_between_steps_and_their_errors_come_back(thread):
    assert thread.call(lambda scheduler: scheduler.engine.capabilities.engine).result() == "fake"
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda scheduler: 1 / 0).result()


def test_closing_while_the_engine_opens_does_not_wait_for_it():
    begun, go = threading.Event(), threading.Event()
    engine = FakeEngine()

    def slow():
        begun.set()
        go.wait(10)
        return engine

    thread = EngineThread(slow, max_queue=4)
    begun.wait(10)
    thread.close()
    assert thread.closed
    assert not engine.closed
    go.set()
    thread._thread.join(10)
    assert engine.closed
