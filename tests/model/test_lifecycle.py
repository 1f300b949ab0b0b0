"""The edges of a model's life: cancelled calls, stale handles, files that change."""

import asyncio
import shutil
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

import lorakit
from lorakit import demo
from lorakit.errors import (
    BaseModelError,
    ClosedError,
    EngineError,
    FormatError,
    ParameterError,
    QueueFullError,
    UnknownAdapterError,
)

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def shared():
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(demo.adapter_path("home"))
        yield model


@pytest.fixture
def model(shared):
    shared.clear_adapters()
    return shared


@pytest.fixture
def held(model):
    """Holds the engine's thread until it is released, as a long step would."""
    release = threading.Event()
    entered = threading.Event()

    def hold(scheduler):
        entered.set()
        release.wait(30)

    model._runtime.call(hold)
    assert entered.wait(10)
    yield release
    release.set()


def test_a_cancelled_apply_still_takes_effect_and_close_ends_all(held, model):
    async def main():
        home = model.find("home")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(home.aapply(1.0), 0.05)
        held.set()
        assert home.scale == 1.0
        completion = await model.acomplete("hello", max_tokens=1)
        assert completion.adapters == (("home", 1.0),)

    asyncio.run(main())


def test_close_after_a_cancelled_command_leaves_nobody_waiting():
    model = lorakit.open(demo.base_path(), threads=1)
    home = model.load_adapter(demo.adapter_path("home"))
    stream = model.stream("hello", max_tokens=500, ignore_eos=True)
    next(stream)
    release = threading.Event()
    model._runtime.call(lambda scheduler: release.wait(30))

    async def cancelled():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(home.aapply(1.0), 0.02)

    asyncio.run(cancelled())
    closer = threading.Thread(target=model.close)
    closer.start()
    release.set()
    closer.join(10)
    assert not closer.is_alive()
    with pytest.raises(ClosedError):
        stream.result(5)


def test_a_file_that_changes_after_loading_changes_nothing(model, tmp_path):
    copy = tmp_path / "mine"
    shutil.copytree(demo.adapter_path("home"), copy)
    loaded = model.load_adapter(copy)
    prompt = model.chat_prompt([{"role": "user", "content": "turn the lights off"}])
    before = model.logits(prompt, adapters={"mine": 1.0})
    other = (demo.adapter_path("home") / "adapter_model.safetensors").read_bytes()
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(other[:2000] + bytes(len(other) - 2000))  # in place
    model.logits(prompt, adapters={"mine": 0.5})
    np.testing.assert_array_equal(model.logits(prompt, adapters={"mine": 1.0}), before)
    weights.write_bytes(b"")
    model.logits(prompt, adapters={"mine": 0.25})
    np.testing.assert_array_equal(model.logits(prompt, adapters={"mine": 1.0}), before)
    loaded.unload()


def test_an_old_handle_does_not_drive_its_successor(model):
    old = model.load_adapter(demo.adapter_path("style"), "x")
    old.unload()
    new = model.load_adapter(demo.adapter_path("shop"), "x")
    for use in (
        lambda: old.apply(3.0),
        lambda: old.scale,
        lambda: old.info,
        old.remove,
        old.unload,
    ):
        with pytest.raises(UnknownAdapterError):
            use()
    assert new.scale is None
    model.find("x").unload()


def test_cancelled_and_late_loads_give_their_names_back(held):
    with lorakit.open(demo.base_path(), threads=1) as model:
        release, entered = threading.Event(), threading.Event()

        def hold(scheduler):
            entered.set()
            release.wait(30)

        model._runtime.call(hold)
        assert entered.wait(10)
        loads = [
            model.load_adapter(demo.adapter_path("home"), f"a{i}", wait=False) for i in range(6)
        ]
        assert loads[5].cancel()
        release.set()
        model.load_adapter(demo.adapter_path("home"), "a5")
        assert [load.result(10).name for load in loads[:5]] == [f"a{i}" for i in range(5)]


def test_loads_that_are_pending_at_close_end_with_closed():
    model = lorakit.open(demo.base_path(), threads=1)
    loads = [model.load_adapter(demo.adapter_path("home"), f"a{i}", wait=False) for i in range(8)]
    model.close()
    for load in loads:
        with suppress(ClosedError):  # the first ones may have been in time
            load.result(10)
    with pytest.raises(ClosedError):
        model.load_adapter(demo.adapter_path("home"), "late")


def test_more_unread_streams_than_sequences_starve_nobody():
    with lorakit.open(demo.base_path(), threads=1, max_batch=2, cached_sequences=1) as model:
        texts = ("hello", "thanks", "goodbye", "how are you", "what can you do")
        prompts = [model.chat_prompt([{"role": "user", "content": text}]) for text in texts]
        cold = [model.complete(prompt).text for prompt in prompts]
        streams = [model.stream(prompt) for prompt in prompts]
        texts = [next(stream) for stream in streams]
        assert model.complete(prompts[0], timeout=20).text == cold[0]
        for _ in range(60):
            for i, stream in enumerate(streams):
                texts[i] += next(stream, "")
        assert texts == cold


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-50, "seed": 1},
        {"temperature": 3e38, "seed": 1},
        {"repetition_penalty": 1e-38},
        {"presence_penalty": 3e38},
        {"temperature": 1.0, "top_p": 1e-300, "seed": 1},
        {"temperature": 1.0, "min_p": 1.0, "seed": 1},
        {"temperature": 1.0, "top_k": 10**9, "seed": 1},
    ],
)
def test_extreme_sampling_does_not_harm_the_others(model, options):
    with suppress(EngineError):  # of this request alone
        model.complete("hello", max_tokens=3, **options)
    assert model.complete("hello", max_tokens=1).tokens


def test_a_request_whose_text_fails_fails_alone(model, monkeypatch, caplog):
    class Broken:
        def step(self, token):
            raise RuntimeError("no text")

        def flush(self):
            return ""

    with monkeypatch.context() as patch:
        patch.setattr(type(model.tokenizer), "stream", lambda *_, **__: Broken())
        with pytest.raises(EngineError, match="no text"):
            model.complete("hello")
    assert model.complete("hello", max_tokens=1).tokens
    assert "no text" in caplog.text


@pytest.mark.parametrize("timeout", [float("inf"), 1e10])
def test_long_timeouts_are_only_long(model, timeout):
    stream = model.stream("hello", timeout=timeout, max_tokens=2)
    time.sleep(0.05)
    assert model.complete("hello", max_tokens=1, timeout=timeout).tokens
    assert stream.result().tokens


def test_recompute_recomputes_what_an_earlier_keep_left(model):
    prompt = model.chat_prompt([{"role": "user", "content": "turn the lights off"}])
    stream = model.stream(prompt, max_tokens=4, logprobs=0)
    next(stream)
    model.apply({"home": 1.0}, kv="keep")
    model.apply({"home": 1.0}, kv="recompute")
    first, second, *_ = stream.result().tokens
    cold = model.complete([*prompt, first.token], adapters={"home": 1.0}, logprobs=0, max_tokens=1)
    assert second.token == cold.tokens[0].token
    assert second.logprob == pytest.approx(cold.tokens[0].logprob, abs=1e-4)


def test_queues_are_at_least_one_long():
    for wrong in (0, -1, None, "3"):
        with pytest.raises(ParameterError):
            lorakit.open(demo.base_path(), max_queue=wrong)
    with lorakit.open(demo.base_path(), threads=1, max_queue=2, max_batch=2) as model:
        requests = [lorakit.Request(prompt="hello", max_tokens=8)] * 12
        assert len(model.batch(requests)) == 12
        assert len(asyncio.run(model.abatch(requests))) == 12
        held = threading.Event()
        model._runtime.call(lambda scheduler: held.wait(60))
        streams = [model.stream("hello") for _ in range(2)]
        with pytest.raises(QueueFullError):
            model.stream("hello")
        held.set()
        assert all(stream.result().tokens for stream in streams)


def test_a_broken_template_is_the_matter_of_chat_alone(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(demo.base_path(), base)
    (base / "chat_template.jinja").write_text("{% nonsense %}")
    with lorakit.open(base, threads=1) as model:
        assert model.complete("hello", max_tokens=2).tokens
        with pytest.raises(FormatError):
            model.chat(HELLO)


def test_a_base_whose_weights_are_no_floats(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(demo.base_path(), base)
    weights = base / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content.replace(b'"F16"', b'"I16"'))
    with pytest.raises(BaseModelError, match="floating point"):
        lorakit.open(base)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.apply(None),
        lambda model: model.apply({1: 1.0}),
        lambda model: model.apply({"home": 10**400}),
        lambda model: model.apply({"home": 1e39}),
        lambda model: model.complete("x", adapters=5),
        lambda model: model.complete(None),
        lambda model: model.complete([5.9, 6]),
        lambda model: model.complete("x", timeout="soon"),
        lambda model: model.complete("x", stop=5),
        lambda model: model.complete("x", stop_tokens="a"),
        lambda model: model.complete("x", sampling={}),
        lambda model: model.complete("x", max_tokens=10**400),
        lambda model: model.stream("x", lookahead="all"),
        lambda model: lorakit.open(demo.base_path(), threads="2"),
        lambda model: lorakit.open(demo.base_path(), max_batch=1.5),
        lambda model: lorakit.open(demo.base_path(), max_batch=10**7),
        lambda model: lorakit.open(demo.base_path(), context=64.5),
        lambda model: lorakit.open(demo.base_path(), quantize="int3"),
    ],
)
def test_wrong_types_and_sizes_are_parameter_errors(model, use):
    with pytest.raises(ParameterError):
        use(model)


def test_numpy_numbers_are_numbers(model):
    options = {"max_tokens": np.int64(2), "temperature": np.float32(0.5), "seed": np.int32(1)}
    assert len(model.complete("hello", **options).tokens) == 2
    model.apply(iter(["home"]))
    assert model.find("home").scale == 1.0


def test_a_scale_of_none_does_not_quietly_remove():
    with lorakit.open(demo.base_path(), threads=1) as model:
        home = model.load_adapter(demo.adapter_path("home"))
        home.apply(0.5)
        with pytest.raises(ParameterError, match="not None"):
            home.apply(None)
        with pytest.raises(ParameterError, match="not None"):
            home.scale = None
        assert home.scale == 0.5
