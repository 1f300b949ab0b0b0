"""Saved KV serves the same tokens under the same adapters and scales, and nobody else."""

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta
from lorakit.engines.fake import FakeEngine
from lorakit.errors import EngineError, FormatError, MismatchError, SourceError, WriteError
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.sampling import SamplingParams
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.state import State, read_state, write_state

ABOUT = {"base": "b", "engine": "fake"}
PROMPT = list(range(30))


class Numbers:
    def step(self, token):
        return f"{token} "

    def flush(self):
        return ""


def adapter(seed):
    a = np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32)
    return Adapter(deltas=(Delta(module="m", a=a, b=a.T.copy(), scale=1.0),))


def run(scheduler, prompt, adapters, tokens=4):
    generation = Generation(tuple(prompt), SamplingParams(max_tokens=tokens), adapters=adapters)
    scheduler.add(Job(generation, Numbers(), frozenset()))
    while scheduler.step():
        pass
    return generation.result()


@pytest.fixture
def saved(tmp_path):
    scheduler = Scheduler(FakeEngine())
    chosen = ((scheduler.attach("a", adapter(1)), 0.5),)
    run(scheduler, PROMPT, chosen, tokens=1)
    path = tmp_path / "state"
    write_state(path, scheduler.save_state(PROMPT, chosen), ABOUT)
    return path


def test_a_state_serves_its_own_key_alone(saved):
    scheduler = Scheduler(FakeEngine())
    first, second = scheduler.attach("a", adapter(1)), scheduler.attach("b", adapter(2))
    scheduler.load_state(read_state(saved, ABOUT))
    longer = [*PROMPT, 40]
    for chosen, expected in (
        (((first, 0.5),), 30),
        (((first, 0.4),), 0),
        (((second, 0.5),), 0),
        ((), 0),
    ):
        cold = Scheduler(FakeEngine())
        handles = {first: cold.attach("a", adapter(1)), second: cold.attach("b", adapter(2))}
        found = run(scheduler, longer, chosen)
        assert found.cached_tokens == expected
        again = run(cold, longer, tuple((handles[h], s) for h, s in chosen))
        assert found.text == again.text


def test_what_was_not_computed_is_not_saved():
    scheduler = Scheduler(FakeEngine())
    with pytest.raises(EngineError, match="dropped"):
        scheduler.save_state(PROMPT, ())


def test_a_state_comes_back_as_it_was(tmp_path):
    key = ((0, ()), (3, (("digest", 0.1),)))
    state = State(tokens=np.arange(5), key=key, kv=b"bytes")
    write_state(tmp_path / "s", state, ABOUT)
    found = read_state(tmp_path / "s", ABOUT)
    assert found.key == key
    assert found.kv == b"bytes"
    np.testing.assert_array_equal(found.tokens, state.tokens)


def test_files_that_are_no_state_or_damaged(saved, tmp_path):
    raw = saved.read_bytes()
    for name, content in {
        "empty": b"",
        "other": b"GGUF" + raw,
        "cut": raw[:-5],
        "longer": raw + b"x",
        "flipped": raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
        "header": raw[:16] + b"[" + raw[17:],
        "huge": raw[:8] + b"\xff" * 8 + raw[16:],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FormatError):
            read_state(path, ABOUT)
    with pytest.raises(SourceError):
        read_state(tmp_path / "none", ABOUT)
    with pytest.raises(WriteError):
        write_state(tmp_path / "none" / "s", read_state(saved, ABOUT), ABOUT)


def test_of_another_base_or_engine(saved):
    with pytest.raises(MismatchError, match="another model") as caught:
        read_state(saved, {"base": "c", "engine": "onnx"})
    assert len(caught.value.items) == 2
