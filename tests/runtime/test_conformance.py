"""What every Runtime does alike: the thread in this process, and one whose engine is in another."""

import time

import numpy as np
import pytest
from automaton import Scripted, chain
from process_runtime import ProcessRuntime

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Row
from lorakit.errors import (
    CancelledError,
    CapabilityError,
    ClosedError,
    DeadlineError,
    EngineError,
    QueueFullError,
)
from lorakit.runtime.generation import Stream
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.protocol import Runtime, Submission
from lorakit.runtime.state import State
from lorakit.runtime.thread import EngineThread
from runtime_cases import Numbers, adapter


def in_thread(*, max_queue=64, **engine):
    return EngineThread(lambda: FakeEngine(**engine), max_queue=max_queue)


@pytest.fixture(params=[in_thread, ProcessRuntime], ids=["thread", "process"])
def make(request):
    """Opens runtimes of one kind, and closes them."""
    opened = []

    def make(**options):
        opened.append(request.param(**options))
        return opened[-1]

    yield make
    for runtime in opened:
        runtime.close()


@pytest.fixture
def runtime(make):
    return make()


def submit(runtime: Runtime, prompt, *, tokens=8, **options):
    params = SamplingParams(max_tokens=tokens)
    return runtime.submit(
        Submission(prompt=tuple(prompt), params=params, decoder=Numbers(), **options)
    )


def text(prompt, *changes, tokens=8):
    """What a fake engine says: changes are (after how many tokens, seed or None, scale)."""
    engine = FakeEngine()
    handles = {seed: engine.attach(engine.prepare(adapter(seed))) for seed in (1, 2)}
    sequence, said, ids = engine.open_sequence(), [], list(prompt)
    chosen: tuple = ()
    while len(said) < tokens:
        for after, seed, scale in changes:
            if after == len(said):
                chosen = () if seed is None else ((handles[seed], scale),)
        row = Row(sequence=sequence, tokens=np.asarray(ids, np.int64), adapters=chosen)
        ids = [int(engine.forward([row])[0][-1].argmax())]
        said += ids
    return "".join(f"{token} " for token in said)


def test_capabilities_say_which_engine(runtime):
    assert runtime.capabilities.engine == "fake"
    assert runtime.capabilities.kv_identity == "fake"


def test_an_answer_whole_and_in_pieces(runtime):
    assert submit(runtime, [1, 2]).result().text == text([1, 2])
    assert "".join(Stream(submit(runtime, [1, 2], lookahead=0))) == text([1, 2])


def test_load_apply_and_unload(runtime):
    handle = runtime.load("a", adapter(1)).result()
    runtime.activate(((handle, 0.5),), "keep").result()
    completion = submit(runtime, [1, 2]).result()
    assert completion.text == text([1, 2], (0, 1, 0.5))
    assert completion.adapters == (("a", 0.5),)
    assert submit(runtime, [1, 2], adapters=()).result().text == text([1, 2])
    runtime.activate((), "keep").result()
    runtime.unload(handle).result()
    assert submit(runtime, [1, 2]).result().text == text([1, 2])


def test_rescaling_in_mid_stream(runtime):
    handle = runtime.load("a", adapter(1)).result()
    runtime.activate(((handle, 1.0),), "keep").result()
    stream = Stream(submit(runtime, [1, 2], lookahead=0))
    pieces = [next(stream), next(stream)]
    runtime.activate(((handle, 0.3),), "keep").result()
    pieces += stream
    assert "".join(pieces) == text([1, 2], (0, 1, 1.0), (2, 1, 0.3))


def test_a_constrained_answer(runtime):
    automaton = chain(1, 2, 3, 4, 5)
    automaton.steps[2].update({4: 3})  # a choice between forced tokens
    found = submit(runtime, [1, 2, 3], constraint=Scripted(automaton), tokens=20).result()
    assert [choice.token for choice in found.tokens] in ([1, 2, 3, 4, 5], [1, 2, 4, 4, 5])
    assert (found.text, found.finish_reason) == (
        "".join(f"{choice.token} " for choice in found.tokens),
        "stop",
    )
    cut = submit(runtime, [1, 2, 3], constraint=Scripted(automaton), tokens=4).result()
    assert (cut.tokens, cut.finish_reason) == (found.tokens[:4], "length")


def test_logits_hidden_states_and_saved_states(make):
    one, other = make(), make()
    assert one.logits([1, 2, 3], ()).result().shape == (3, 64)
    assert len(one.hidden([1, 2], ()).result()) == 2
    state = one.save_state([1, 2, 3], ()).result()
    other.load_state(state).result()
    completion = submit(other, [1, 2, 3, 4]).result()
    assert completion.cached_tokens == 3
    assert completion.text == text([1, 2, 3, 4])


def test_cancelling(make):
    runtime = make(step_seconds=0.005)
    generation = submit(runtime, [1], tokens=200)
    generation.cancel()
    with pytest.raises(CancelledError) as caught:
        generation.result(30)
    assert caught.value.code == "cancelled"
    assert submit(runtime, [1, 2]).result().text == text([1, 2])


def test_errors_keep_their_codes(make):
    runtime = make(max_queue=1, step_seconds=0.05, max_batch=1, max_sequences=1)
    with pytest.raises(DeadlineError) as late:
        submit(runtime, [1], deadline=time.monotonic() - 1).result(30)
    with pytest.raises(EngineError) as unknown:
        runtime.load_state(State(tokens=np.arange(3), key=((0, ()),), kv=b"short")).result()
    with pytest.raises(CapabilityError) as blind:
        runtime.encode_image(b"")
    with pytest.raises(QueueFullError) as full:
        [submit(runtime, [1], tokens=50) for _ in range(20)]
    codes = [caught.value.code for caught in (late, unknown, blind, full)]
    assert codes == ["deadline_exceeded", "engine_failed", "capability_missing", "queue_full"]


def test_closing(make):
    runtime = make(step_seconds=0.005)
    generation = submit(runtime, [1], tokens=200)
    runtime.close()
    runtime.close()
    assert runtime.closed
    with pytest.raises(ClosedError):
        generation.result(30)
    for use in (
        lambda: submit(runtime, [1]),
        lambda: runtime.logits([1], ()),
        lambda: runtime.load("a", adapter(1)),
        lambda: runtime.activate((), "keep"),
        runtime.require_open,
    ):
        with pytest.raises(ClosedError) as caught:
            use()
        assert caught.value.code == "closed"
