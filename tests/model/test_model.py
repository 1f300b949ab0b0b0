"""The user's object, on the demo's base and adapters: real weights, real engine."""

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

import lorakit
from lorakit import demo
from lorakit.adapter import Adapter, Delta
from lorakit.errors import (
    BaseModelError,
    CancelledError,
    ClosedError,
    ContextFullError,
    DeadlineError,
    LorakitError,
    MismatchError,
    NameTakenError,
    ParameterError,
    SourceError,
    UnknownAdapterError,
)

LIGHTS = [{"role": "user", "content": "turn the lights off in the kitchen"}]


@pytest.fixture(scope="module")
def shared():
    with lorakit.open(demo.base_path(), threads=1) as model:
        for name in demo.ADAPTERS:
            model.load_adapter(demo.adapter_path(name))
        yield model


@pytest.fixture
def model(shared):
    """The shared model with nothing active."""
    shared.clear_adapters()
    return shared


@pytest.fixture
def prompt(model):
    return model.chat_prompt(LIGHTS)


def small_adapter(seed=0, hidden=128, module="model.layers.0.mlp.gate_proj", out=256):
    random = np.random.default_rng(seed)
    a = random.normal(size=(4, hidden)).astype(np.float32)
    b = random.normal(size=(out, 4)).astype(np.float32)
    return Adapter(deltas=(Delta(module=module, a=a, b=b, scale=0.5),))


def test_the_session_of_the_design():
    with lorakit.open(str(demo.base_path())) as model:
        home = model.load_adapter(demo.adapter_path("home"))
        style = model.load_adapter(demo.adapter_path("style"))
        home.apply(scale=0.5)
        assert isinstance(str(model.complete("turn the lights off", max_tokens=8)), str)
        for piece in model.stream("turn the lights off", max_tokens=8):
            assert isinstance(piece, str)
            home.scale = 0.9
        reply = model.chat(LIGHTS, adapters={"home": 1.0, "style": 0.3})
        assert reply.tool_calls
        assert next(call.name for call in reply.tool_calls).endswith("lights")
        home.remove()
        model.clear_adapters()
        home.unload()
        assert [info.name for info in model.adapters] == ["style"]
        assert style.scale is None


def test_adapters_change_what_the_model_says_and_leave_no_trace(model, prompt):
    base = model.complete(prompt).text
    home = model.find("home")
    home.apply()
    tuned = model.complete(prompt).text
    assert tuned.startswith("<start_function_call>call:")
    assert tuned != base
    home.scale = 0
    assert model.complete(prompt).text == base
    home.scale = 1
    assert model.complete(prompt).text == tuned
    home.remove()
    assert model.complete(prompt).text == base


def test_a_batch_gives_each_request_its_own_adapters(model):
    texts = ["turn the lights off", "add three apples to the cart", "tell me a joke"]
    settings = [{}, {"home": 1.0}, {"shop": 1.0}, {"home": 1.0, "style": 1.0}, {"home": 0.5}]
    requests = [
        lorakit.Request(prompt=model.chat_prompt([{"role": "user", "content": t}]), adapters=s)
        for t in texts
        for s in settings
    ]
    together = [completion.text for completion in model.batch(requests)]
    alone = [model.batch([request])[0].text for request in requests]
    assert together == alone
    assert len(set(together)) > len(texts)


def test_the_active_set_changes_at_once_and_in_order(model):
    model.apply({"style": 0.3, "home": 0.7})
    assert [(info.name, info.scale) for info in model.adapters] == [
        ("style", 0.3),
        ("home", 0.7),
        ("shop", None),
    ]
    for wrong in ({"home": 1.0, "nobody": 1.0}, {"home": float("nan")}, {"home": "1"}):
        with pytest.raises((UnknownAdapterError, ParameterError)):
            model.apply(wrong)
        assert [info.scale for info in model.adapters] == [0.3, 0.7, None]
    assert model.complete("x", max_tokens=1).adapters == (("style", 0.3), ("home", 0.7))


def test_a_scale_set_between_two_pieces_acts_on_the_next_token(model, prompt):
    base = model.complete(prompt, max_tokens=6)
    stream = model.stream(prompt, max_tokens=6)
    first = next(stream)
    model.apply({"home": 1.0}, kv="recompute")
    rest = "".join(stream)
    assert base.text.startswith(first)
    tokens = [choice.token for choice in stream.result().tokens]
    assert stream.result().adapters == (("home", 1.0),)
    cold = model.complete([*prompt, tokens[0]], adapters={"home": 1.0}, max_tokens=5)
    assert [choice.token for choice in cold.tokens] == tokens[1:]
    assert rest


def test_interleaved_prompts_and_adapters_equal_cold_runs(model):
    prompts = [
        model.chat_prompt([{"role": "user", "content": text}])
        for text in ("turn the lights off", "turn the lights on", "hello")
    ]
    settings = [{}, {"home": 1.0}, {"shop": 0.5, "home": 0.5}]
    cases = [(p, s) for p in prompts for s in settings] * 2
    order = np.random.default_rng(0).permutation(len(cases))
    warm = {i: model.complete(cases[i][0], adapters=cases[i][1]).text for i in order.tolist()}
    for i, (ids, scales) in enumerate(cases[: len(cases) // 2]):
        with lorakit.open(demo.base_path(), threads=1) as cold:
            for name in scales:
                cold.load_adapter(demo.adapter_path(name))
            text = cold.complete(ids, adapters=scales).text
        assert warm[i] == warm[i + len(cases) // 2] == text


def test_logits_follow_the_adapters_and_need_no_order(model, prompt):
    base = model.logits(prompt, adapters={})
    tuned = model.logits(prompt, adapters={"home": 1.0, "style": 0.5})
    assert base.shape == (len(prompt), model.capabilities.vocabulary)
    assert np.abs(base - tuned).max() > 0.1
    np.testing.assert_allclose(
        model.logits(prompt, adapters={"style": 0.5, "home": 1.0}), tuned, atol=1e-4
    )
    np.testing.assert_array_equal(model.logits(prompt, adapters={"home": 0.0}), base)
    np.testing.assert_array_equal(model.logits(prompt), base)


def test_what_does_not_fit_is_refused_and_changes_nothing(model, prompt, tmp_path):
    before, names = model.complete(prompt).text, [info.name for info in model.adapters]
    bad = small_adapter()
    bad.deltas[0].a[0, 0] = np.nan
    for adapter, error in [
        (tmp_path / "nowhere", SourceError),
        (tmp_path, LorakitError),
        (small_adapter(hidden=64), MismatchError),
        (small_adapter(module="model.layers.9.mlp.gate_proj"), MismatchError),
        (bad, MismatchError),
    ]:
        with pytest.raises(error):
            model.load_adapter(adapter, "bad")
        with pytest.raises(error):
            model.load_adapter(adapter, "bad", wait=False).result(10)
    assert [info.name for info in model.adapters] == names
    assert model.complete(prompt).text == before
    model.load_adapter(small_adapter(), "bad").unload()  # the name is still free


def test_names_are_unique_also_while_loading(model):
    with pytest.raises(NameTakenError):
        model.load_adapter(demo.adapter_path("home"))
    future = model.load_adapter(small_adapter(), "twice", wait=False)
    with pytest.raises(NameTakenError):
        model.load_adapter(small_adapter(), "twice")
    future.result(10).unload()
    with pytest.raises(ParameterError):
        model.load_adapter(small_adapter())


def test_unloading_frees_after_the_last_request(model, prompt):
    loaded = model.load_adapter(small_adapter(), "temporary")
    stream = model.stream(prompt, adapters={"temporary": 1.0}, max_tokens=4)
    first = next(stream)
    loaded.unload()
    with pytest.raises(UnknownAdapterError):
        loaded.apply()
    with pytest.raises(UnknownAdapterError):
        model.complete(prompt, adapters={"temporary": 1.0})
    again = model.load_adapter(small_adapter(), "temporary")
    whole = model.complete(prompt, adapters={"temporary": 1.0}, max_tokens=4).text
    assert first + "".join(stream) == whole
    again.unload()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "much", None])
def test_scales_must_be_finite_numbers(model, scale):
    with pytest.raises(ParameterError):
        model.complete("x", adapters={"home": scale})


def test_bad_requests_say_what_is_wrong(model):
    with pytest.raises(ContextFullError):
        model.complete([5] * 5000)
    with pytest.raises(ParameterError):
        model.complete([])
    with pytest.raises(ParameterError, match="max_token"):
        model.complete("x", max_token=4)
    with pytest.raises(LorakitError):
        model.complete([10**6])
    with pytest.raises(ParameterError):
        model.complete("x", timeout=0)
    assert model.complete("x", max_tokens=0).text == ""


def test_deadlines_and_cancellation(model, prompt):
    with pytest.raises(DeadlineError):
        model.complete(prompt, timeout=1e-4, max_tokens=200, ignore_eos=True)
    stream = model.stream(prompt, max_tokens=200, ignore_eos=True)
    next(stream)
    stream.cancel()
    with pytest.raises(CancelledError):
        stream.result(5)


def test_logprobs_of_the_answer(model, prompt):
    completion = model.complete(prompt, logprobs=2, max_tokens=3)
    logits = model.logits(prompt)[-1].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    first = completion.tokens[0]
    assert first.logprob == pytest.approx(expected[first.token], abs=1e-4)
    assert first.top[0][0] == first.token


def test_coroutines(model, prompt):
    async def main():
        loaded = await model.aload_adapter(small_adapter(), "async")
        await loaded.aapply(0.5)
        completion = await model.acomplete(prompt, max_tokens=5)
        pieces = [piece async for piece in model.stream(prompt, max_tokens=5)]
        assert "".join(pieces) == completion.text
        requests = [lorakit.Request(prompt=prompt, adapters={"home": 1.0})] * 40
        assert len({c.text for c in await model.abatch(requests)}) == 1
        reply = await model.achat(LIGHTS, adapters={"home": 1.0})
        assert reply.tool_calls
        task = asyncio.create_task(model.acomplete(prompt, max_tokens=500, ignore_eos=True))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await loaded.aremove()
        await loaded.aunload()
        await model.aapply({})

    asyncio.run(main())


def test_threads_load_apply_generate_and_unload_at_once(model, prompt):
    expected = model.complete(prompt, adapters={"home": 1.0}).text
    faults = []

    def work(i):
        try:
            for round_ in range(4):
                loaded = model.load_adapter(small_adapter(i), f"worker-{i}-{round_}")
                stream = model.stream(prompt, adapters={loaded.name: 0.3}, max_tokens=4)
                next(stream)
                loaded.apply(0.1)
                assert model.complete(prompt, adapters={"home": 1.0}).text == expected
                loaded.unload()
                list(stream)
        except BaseException as error:
            faults.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not faults
    assert {info.name for info in model.adapters} == set(demo.ADAPTERS)


def test_close_and_use_after_close(prompt):
    model = lorakit.open(demo.base_path(), threads=1)
    home = model.load_adapter(demo.adapter_path("home"))
    stream = model.stream(prompt, max_tokens=100, ignore_eos=True)
    next(stream)
    model.close()
    model.close()
    with pytest.raises(ClosedError):
        stream.result(5)
    for use in (
        lambda: model.complete(prompt),
        lambda: model.load_adapter(demo.adapter_path("shop")),
        lambda: model.load_adapter(demo.adapter_path("shop"), wait=False).result(5),
        lambda: home.apply(),
        lambda: model.apply({}),
        lambda: model.logits(prompt),
        lambda: home.unload(),
    ):
        with pytest.raises(ClosedError):
            use()
    assert model.closed


def test_a_forgotten_model_is_freed():
    model = lorakit.open(demo.base_path(), threads=1)
    thread = model._runtime._thread
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    thread.join(10)
    assert not thread.is_alive()


def test_two_models_at_once(model, prompt):
    with lorakit.open(demo.base_path(), threads=1) as other:
        other.load_adapter(demo.adapter_path("home")).apply()
        assert other.complete(prompt).text == model.complete(prompt, adapters={"home": 1.0}).text
        assert model.complete(prompt).text == other.complete(prompt, adapters={}).text


def test_opening_what_is_no_model(tmp_path):
    with pytest.raises(SourceError):
        lorakit.open(tmp_path / "nowhere")
    with pytest.raises(SourceError):
        lorakit.open(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(BaseModelError) as caught:
        lorakit.open(tmp_path)
    assert caught.value.code == "architecture_unknown"
    with pytest.raises(ParameterError, match="quantise"):
        lorakit.open(demo.base_path(), quantise="int8")


def test_a_base_without_a_tokenizer(tmp_path):
    for file in demo.base_path().iterdir():
        if "tokenizer" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BaseModelError) as caught:
        lorakit.open(tmp_path)
    assert caught.value.code == "tokenizer_missing"


def test_a_truncated_base(tmp_path):
    for file in demo.base_path().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LorakitError, match=r"model\.safetensors"):
        lorakit.open(tmp_path)


def test_loading_an_adapter_checks_it_once(monkeypatch):
    from lorakit.engines.onnx import engine

    checked = []
    original = engine.require_fit
    monkeypatch.setattr(
        engine, "require_fit", lambda *given: (checked.append(given), original(*given))
    )
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(demo.adapter_path("home"))
        assert len(checked) == 1
