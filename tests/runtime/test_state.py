"""Saved KV serves the same tokens under the same adapters and scales, and nobody else."""

import hashlib
import json
import os

import numpy as np
import pytest

from folders import make_sparse
from lorakit.engines.fake import FakeEngine
from lorakit.errors import EngineError, FormatError, MismatchError, SourceError, WriteError
from lorakit.runtime.computations import LoadedState, SavedState
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.state import State, read_state, write_state
from runtime_cases import Numbers, adapter

ABOUT = {"base": "b", "engine": "fake"}
PROMPT = list(range(30))


def run(scheduler, prompt, adapters, tokens=4):
    generation = Generation(tuple(prompt), SamplingParams(max_tokens=tokens), adapters=adapters)
    scheduler.add(Job(generation, Numbers(), frozenset()))
    while scheduler.step():
        pass
    return generation.result()


def compute(scheduler, computation):
    scheduler.add(computation)
    while scheduler.step():
        pass
    return computation.future.result(0)


@pytest.fixture
def saved(tmp_path):
    scheduler = Scheduler(FakeEngine())
    chosen = ((scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1))), 0.5),)
    path = tmp_path / "state"
    write_state(path, compute(scheduler, SavedState(PROMPT, chosen)), ABOUT)
    return path


def test_a_state_serves_its_own_key_alone(saved):
    scheduler = Scheduler(FakeEngine())
    first, second = (
        scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1))),
        scheduler.adapters.attach("b", scheduler.engine.prepare(adapter(2))),
    )
    compute(scheduler, LoadedState(read_state(saved, ABOUT)))
    longer = [*PROMPT, 40]
    for chosen, expected in (
        (((first, 0.5),), 30),
        (((first, 0.4),), 0),
        (((second, 0.5),), 0),
        ((), 0),
    ):
        cold = Scheduler(FakeEngine())
        handles = {
            first: cold.adapters.attach("a", cold.engine.prepare(adapter(1))),
            second: cold.adapters.attach("b", cold.engine.prepare(adapter(2))),
        }
        found = run(scheduler, longer, chosen)
        assert found.cached_tokens == expected
        again = run(cold, longer, tuple((handles[h], s) for h, s in chosen))
        assert found.text == again.text


def test_a_state_is_computed_as_far_as_no_cache_holds_it():
    scheduler = Scheduler(FakeEngine())
    run(scheduler, PROMPT[:20], ())
    state = compute(scheduler, SavedState(PROMPT, ()))
    cold = compute(Scheduler(FakeEngine()), SavedState(PROMPT, ()))
    assert state.kv == cold.kv
    assert run(scheduler, [*PROMPT, 40], ()).cached_tokens == 30


def test_a_state_of_other_tokens_than_the_model_has_is_refused(saved):
    state = read_state(saved, ABOUT)
    for engine in (FakeEngine(vocabulary=16), FakeEngine(context=16)):
        with pytest.raises(MismatchError, match="does not fit"):
            compute(Scheduler(engine), LoadedState(state))
    short = State(tokens=state.tokens[:-1], key=state.key, kv=state.kv)
    with pytest.raises(EngineError, match="length"):
        compute(Scheduler(FakeEngine()), LoadedState(short))


def test_a_state_comes_back_as_it_was(tmp_path):
    key = ((0, ()), (3, (("digest", 0.1),)))
    state = State(tokens=np.arange(5), key=key, kv=b"bytes")
    write_state(tmp_path / "s", state, ABOUT)
    found = read_state(tmp_path / "s", ABOUT)
    assert found.key == key
    assert found.kv == b"bytes"
    np.testing.assert_array_equal(found.tokens, state.tokens)


def test_every_flipped_byte_is_seen(saved, tmp_path):
    raw, damaged = saved.read_bytes(), tmp_path / "damaged"
    for at in range(len(raw)):
        damaged.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(FormatError):
            read_state(damaged, ABOUT)


def test_files_that_are_no_state_or_damaged(saved, tmp_path):
    raw = saved.read_bytes()
    for name, content in {
        "empty": b"",
        "other": b"GGUF" + raw,
        "old": b"LKSTATE1" + raw[8:],
        "cut": raw[:-5],
        "longer": raw + b"x",
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


def forged(path, saved, **fields):
    """The saved state with other fields in its header, and a checksum that is right."""
    raw = saved.read_bytes()
    length = int.from_bytes(raw[8:16], "little")
    header = {**json.loads(raw[16 : 16 + length]), **fields}
    text = json.dumps(header).encode()
    whole = raw[:8] + len(text).to_bytes(8, "little") + text + raw[16 + length : -32]
    path.write_bytes(whole + hashlib.sha256(whole).digest())
    return path


def test_a_forged_header_with_a_right_checksum_is_refused(saved, tmp_path):
    path = tmp_path / "forged"
    read_state(forged(path, saved), ABOUT)
    for fields in (
        {"key": []},
        {"key": [[3, []]]},
        {"key": [[0, []], [0, []]]},
        {"key": [[0, []], [30, []]]},
        {"key": [[False, []]]},
        {"key": [[0, [["d", "inf"]]]]},
        {"key": [[0, [["d", 1.0]]]]},
        {"key": 5},
        {"tokens": []},
        {"tokens": [1.5] * 30},
        {"tokens": [True] * 30},
        {"tokens": [-1] * 30},
        {"tokens": [1 << 40] * 30},
        {"tokens": {"0": 1}},
        {"bytes": 1},
        {"about": 7},
    ):
        with pytest.raises(FormatError):
            read_state(forged(path, saved, **fields), ABOUT)


def test_what_a_file_claims_is_never_asked_of_the_memory(saved, tmp_path):
    path = tmp_path / "sparse"
    make_sparse(path, 1 << 40, saved.read_bytes())
    with pytest.raises(FormatError, match="leaves"):
        read_state(path, ABOUT, max_kv=1 << 20)
    with pytest.raises(FormatError, match="items"):
        read_state(forged(path, saved, more=[[]] * 100_000), ABOUT, max_tokens=30)
    with pytest.raises(FormatError, match="header"):
        read_state(forged(path, saved, more="x" * (2 << 20)), ABOUT, max_tokens=30)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX matter")
def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="named pipe"):
        read_state(tmp_path / "pipe", ABOUT)


def test_of_another_base_or_engine(saved):
    with pytest.raises(MismatchError, match="another model") as caught:
        read_state(saved, {"base": "c", "engine": "onnx"})
    assert len(caught.value.items) == 2
