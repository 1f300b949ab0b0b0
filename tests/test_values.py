"""Numbers, prompts and paths of users: what is refused, and that saying so never fails itself."""

import asyncio
import gc
import math
import os
import time

import numpy as np
import pytest

import lorakit
from lorakit import EngineOptions, LlamaOptions, SamplingParams, demo
from lorakit.algebra import combine, resize
from lorakit.errors import DeadlineError, ParameterError, WriteError
from lorakit.files.bounded import as_path
from lorakit.sources import Limits
from lorakit.values import finite, real, shown, whole

HUGE = 10**5000  # Python refuses to write it out


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1, max_batch=2) as model:
        yield model


def test_numbers():
    assert whole(3) and whole(np.int64(3)) and whole(HUGE)  # noqa: PT018
    assert not any(map(whole, (True, np.bool_(1), 3.0, "3", None)))
    assert real(3) and real(math.nan) and real(np.float16(2))  # noqa: PT018
    assert not any(map(real, (True, "3", None, 1j)))
    assert finite(np.float16(3)) and finite(-0.0)  # noqa: PT018
    assert not any(map(finite, (math.inf, math.nan, 1e39, HUGE, True)))


def test_any_value_can_be_shown():
    assert shown("x" * 200) == "'" + "x" * 79 + "..."
    assert shown(HUGE) == f"a whole number of {HUGE.bit_length()} bits"
    assert shown(Unspeakable()) == "a Unspeakable"


@pytest.mark.parametrize("value", [HUGE, -HUGE, Unspeakable(), True, "no", [1, [2]]], ids=shown)
def test_what_is_no_number_is_a_parameter_error_everywhere(model, value):
    for name in ("max_tokens", "temperature", "top_k", "top_p", "seed", "logprobs"):
        with pytest.raises(ParameterError, match=name):
            SamplingParams(**{name: value})
    for name in ("threads", "context", "max_batch", "cached_sequences"):
        with pytest.raises(ParameterError, match=name):
            EngineOptions(**{name: value})
    for name in ("gpu_layers", "micro_batch", "contexts"):
        with pytest.raises(ParameterError, match=name):
            LlamaOptions(**{name: value})
    for use in (
        lambda: model.apply({"a": value}),
        lambda: lorakit.AdapterConfig("a", scale=value),
    ):
        with pytest.raises(ParameterError):
            use()
    if value != HUGE:  # which is only long
        with pytest.raises(ParameterError, match="timeout"):
            model.complete("hello", timeout=value)
        with pytest.raises(ParameterError, match="lookahead"):
            model.stream("hello", lookahead=value)
        with pytest.raises(ParameterError, match="max_queue"):
            lorakit.open(demo.base_path(), max_queue=value)


@pytest.mark.parametrize("value", [True, HUGE, "8", math.nan, -1, Unspeakable(), [1]], ids=shown)
def test_numbers_beside_the_model_are_refused_alike(value):
    adapter = lorakit.read_adapter(demo.adapter_path("home"))
    uses = [
        lambda: resize(adapter, rank=value),
        lambda: resize(adapter, energy=value),
        lambda: combine(
            [(adapter, 1.0)], "dare", rank=4, density=value if value is not True else 2
        ),
        lambda: combine([(adapter, 1.0)], "dare", rank=4, seed=value),
        lambda: Limits(retries=value),
        lambda: Limits(max_bytes=value),
        lambda: lorakit.Request(prompt="hello", sampling=value),
    ]
    if value != -1:
        uses.append(lambda: combine([(adapter, value)]))
    if value != HUGE or isinstance(value, bool):
        uses.append(lambda: Limits(timeout=value))
    for use in uses:
        with pytest.raises(ParameterError):
            use()


def test_a_batch_is_of_requests(model):
    for wrong in ("hello", {"prompt": "hello"}, None):
        with pytest.raises(ParameterError, match="Request"):
            model.batch([wrong])
        with pytest.raises(ParameterError, match="Request"):
            asyncio.run(model.abatch([wrong]))


@pytest.mark.parametrize("prompt", [
    b"hello", bytearray(b"hello"), memoryview(b"hello"), {1: 2}, {1, 2}, [True, False], [1.0],
    [None], [HUGE], [-1], [10**9], np.array([1.5]), [[1]], 7, [np.bool_(1)], ["1"], [],
], ids=shown)  # fmt: skip
def test_what_is_no_prompt(model, prompt):
    for use in (
        lambda: model.complete(prompt, max_tokens=1),
        lambda: model.logits(prompt),
        lambda: model.embed(prompt),
        lambda: model.save_state(prompt, "state"),
    ):
        with pytest.raises(ParameterError) as caught:
            use()
        assert caught.value.code == "parameter_invalid"


def test_prompts_of_numpy_and_iterators(model):
    expected = model.complete([5, 6, 7], max_tokens=2).tokens
    for prompt in (np.array([5, 6, 7], np.uint64), (5, 6, 7), iter([5, 6, 7]), range(5, 8)):
        assert model.complete(prompt, max_tokens=2).tokens == expected
    with pytest.raises(ParameterError):
        model.complete([5, 6, 7], stop_tokens=[10**9])


@pytest.mark.parametrize(
    "path", ["", "a\0b", "\ud800", None, 3, b"bytes", [], Unspeakable()], ids=shown
)
def test_what_is_no_path(model, path):
    for use in (
        lambda: as_path(path),
        lambda: model.save_state([5, 6], path),
        lambda: model.load_state(path),
    ):
        with pytest.raises(ParameterError, match="path"):
            use()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX matter")
def test_nothing_takes_the_place_of_a_pipe_or_a_device(model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    session = model.session()
    for write in (lambda: model.save_state([5, 6], tmp_path / "pipe"),
                  lambda: session.save(tmp_path / "pipe")):  # fmt: skip
        with pytest.raises(WriteError, match="pipe"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_an_adapter_that_is_not_loaded_is_unknown_at_scale_0_too(model):
    for use in (
        lambda: model.apply({"nobody": 0}),
        lambda: model.complete("hello", adapters={"nobody": 0.0}),
    ):
        with pytest.raises(lorakit.LorakitError) as caught:
            use()
        assert caught.value.code == "adapter_unknown"
    assert model.adapters == ()


def test_a_batch_waits_for_room_no_longer_than_its_deadline():
    with lorakit.open(demo.base_path(), threads=1, max_queue=1, max_batch=1) as model:
        requests = [lorakit.Request(prompt="hello")] * 6
        assert len(asyncio.run(model.abatch(requests))) == 6
        model._runtime.call(lambda scheduler: time.sleep(1.5))
        first = model.stream("hello", lookahead=None)
        with pytest.raises(DeadlineError):
            model.batch(requests, timeout=0.2)
        first.result()
        model._runtime.call(lambda scheduler: time.sleep(1.5))
        model.stream("hello", lookahead=None)
        with pytest.raises(DeadlineError):
            asyncio.run(model.abatch(requests, timeout=0.2))


def test_a_stream_keeps_its_model():
    def pieces():
        return lorakit.open(demo.base_path(), threads=1).stream(
            [5, 6], max_tokens=3, ignore_eos=True
        )

    stream = pieces()
    gc.collect()
    assert len(stream.result().tokens) == 3
