"""What waits, is computed beside requests, or is read by nobody must not hold up the rest."""

import threading
import time

import numpy as np
import pytest

from lorakit.engines.fake import FakeEngine
from lorakit.errors import ClosedError, DeadlineError, EngineError
from lorakit.runtime.computations import LogitsOf
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.protocol import Submission
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.thread import EngineThread
from runtime_cases import Numbers


def job(prompt, **options):
    tokens = options.pop("tokens", 8)
    generation = Generation(tuple(prompt), SamplingParams(max_tokens=tokens), **options)
    return Job(generation, Numbers(), frozenset())


def submit(thread, prompt, *, tokens=8, **options):
    params = SamplingParams(max_tokens=tokens)
    return thread.submit(
        Submission(prompt=tuple(prompt), params=params, decoder=Numbers(), **options)
    )


def drain(scheduler):
    while scheduler.step():
        pass


def test_requests_run_beside_a_long_computation():
    scheduler = Scheduler(FakeEngine())
    logits = LogitsOf([1] * 200, ())
    scheduler.add(logits)
    scheduler.step()
    scheduler.add(request := job([1, 2], tokens=3))
    while not request.generation.done:
        scheduler.step()
    assert not logits.future.done()  # 200 tokens are 13 chunks
    drain(scheduler)
    assert logits.future.result(0).shape == (200, 64)


@pytest.mark.parametrize("kind", ["logits", "hidden", "save_state"])
def test_many_computations_end_with_the_model_that_is_closed(kind):
    engine = FakeEngine(step_seconds=0.01)
    thread = EngineThread(lambda: engine, max_queue=400)
    futures = [getattr(thread, kind)([n % 60] * 200, ()) for n in range(300)]
    futures[0].result(30)
    ran = len(engine.steps)
    thread.close()
    assert len(engine.steps) <= ran + 30  # 13 steps each, where all of them would be 3,900
    with pytest.raises(ClosedError):
        futures[-1].result(0)
    assert all(future.done() for future in futures)


def test_a_deadline_holds_behind_computations():
    engine = FakeEngine(step_seconds=0.01)
    thread = EngineThread(lambda: engine, max_queue=400)
    futures = [thread.logits([n % 60] * 200, ()) for n in range(300)]
    late = submit(thread, [1], deadline=time.monotonic() + 0.05)
    with pytest.raises(DeadlineError):
        late.result(60)
    assert not futures[-1].done()
    thread.close()


def test_a_computation_that_nobody_waits_for_is_left_out():
    scheduler = Scheduler(FakeEngine())
    cancelled, other = LogitsOf([1], ()), LogitsOf([2], ())
    cancelled.future.cancel()
    scheduler.add(cancelled)
    scheduler.add(other)
    drain(scheduler)
    assert other.future.result(0).shape == (1, 64)
    assert len(scheduler.engine.steps) == 1


def test_a_computation_that_fails_gives_back_its_sequence():
    scheduler = Scheduler(FakeEngine())
    logits = LogitsOf([1] * 100, ())
    scheduler.add(logits)
    scheduler.step()

    def fail(rows):
        raise EngineError("broken")

    scheduler.engine.before_step = fail
    drain(scheduler)
    with pytest.raises(EngineError, match="broken"):
        logits.future.result(0)
    assert not scheduler.engine._states


def test_the_only_sequence_is_waited_for():
    scheduler = Scheduler(FakeEngine(max_batch=1, max_sequences=1))
    scheduler.add(logits := LogitsOf([1] * 100, ()))
    scheduler.step()
    scheduler.add(request := job([1, 2]))
    drain(scheduler)
    assert logits.future.result(0).shape == (100, 64)
    assert request.generation.result(0).tokens


def test_a_step_costs_the_same_however_many_wait_unread(monkeypatch):
    """Looks are counted, not seconds; 300 streams that nobody reads are left alone."""
    looks, original = [], Generation.wants_more.fget

    def wants_more(self):
        looks.append(self)
        return original(self)

    monkeypatch.setattr(Generation, "wants_more", property(wants_more))
    thread = EngineThread(lambda: FakeEngine(max_batch=2, max_sequences=3), max_queue=1000)
    streams = [submit(thread, [n % 60], tokens=4, lookahead=0) for n in range(300)]
    while thread.call(lambda scheduler: len(scheduler.waiting)).result():
        time.sleep(0.001)
    looks.clear()
    submit(thread, [7, 7], tokens=20).result(60)
    assert len(looks) < 20 * 20  # a few running ones in each of some 20 steps
    assert "".join(piece for piece in iter(streams[123].next_piece, None)).split()
    streams[200].cancel()
    assert streams[200].next_piece() is None
    thread.close()


def test_kv_of_a_failed_request_serves_nobody():
    scheduler = Scheduler(FakeEngine())
    scheduler.add(good := job([5] * 30))
    drain(scheduler)

    def fail(rows):
        if any(9 in row.tokens for row in rows):
            raise EngineError("a nine")

    scheduler.engine.before_step = fail
    scheduler.add(bad := job([6] * 30 + [9]))
    drain(scheduler)
    with pytest.raises(EngineError):
        bad.generation.result(0)
    held = [prefix.tokens.tolist()[:30] for prefix in scheduler._prefixes]
    assert held == [[5] * 30]
    assert good.generation.done


def test_readers_that_give_up_leave_nothing_behind():
    import asyncio

    thread = EngineThread(lambda: FakeEngine(step_seconds=0.5), max_queue=10)
    request = submit(thread, [1], lookahead=0)

    async def impatient():
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(request.anext_piece(), 0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(request.aresult(), 0.01)

    asyncio.run(impatient())
    assert not request._piece_wakers
    assert not request._done_wakers
    thread.close()


def test_an_error_does_not_grow_with_those_who_read_it():
    generation = Generation((1,), SamplingParams())
    generation.finish(EngineError("once"))

    def depth():
        with pytest.raises(EngineError) as caught:
            generation.result(0)
        count, trace = 0, caught.value.__traceback__
        while trace is not None:
            count, trace = count + 1, trace.tb_next
        return count

    assert len({depth() for _ in range(5)}) == 1


def test_an_adapter_whose_caller_was_interrupted_is_taken_back(monkeypatch):
    from lorakit.adapter import Adapter, Delta
    from lorakit.model.adapters import AdapterTable

    thread = EngineThread(FakeEngine, max_queue=10)
    table, held = AdapterTable(thread), threading.Event()
    thread.wait_open()
    thread.call(lambda scheduler: held.wait(30))

    class Interrupted:
        def __init__(self, future):
            self.future = future

        def result(self):
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.future, name)

    real = thread.call
    monkeypatch.setattr(thread, "call", lambda command: Interrupted(real(command)))
    a = np.ones((1, 1), np.float32)
    table.reserve("a")
    with pytest.raises(KeyboardInterrupt):
        table.load("a", Adapter(deltas=(Delta(module="m", a=a, b=a, scale=1.0),)), "memory")
    held.set()
    monkeypatch.undo()
    thread.call(lambda scheduler: None).result(30)
    assert thread.call(lambda scheduler: len(scheduler.adapters)).result(30) == 0
    thread.close()
