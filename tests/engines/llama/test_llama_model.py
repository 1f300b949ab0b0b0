"""A Model on llama.cpp, through every public call; answers equal those of cold models."""

import asyncio
import gc
import random
import threading

import numpy as np
import pytest
from demo_gguf import write_demo
from llama_cases import TRUTH, base_file

import lorakit
from lorakit import demo
from lorakit.engines.llama.context import Context
from lorakit.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    DeadlineError,
    NameTakenError,
    ParameterError,
    UnknownAdapterError,
)
from lorakit.formats import read_adapter
from lorakit.formats.ort import write_ort
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams

SOURCES = {
    "peft": TRUTH / "peft" / "llama" / "plain",
    "mlx": TRUTH / "mlx" / "llama" / "lora",
    "gguf": TRUTH / "gguf" / "llama.plain.f32.gguf",
}
PROMPTS = [[1, *range(10, 40)], [1, *range(10, 25), 99, 100], [1, 300, 20, 7]]
ASK = {"max_tokens": 8, "ignore_eos": True}


def open_model(**options):
    return lorakit.open(base_file("llama"), **{"threads": 1, "max_batch": 4, **options})


@pytest.fixture(scope="module")
def shared():
    with open_model() as model:
        model.load_adapter(SOURCES["peft"], "one")
        model.load_adapter(TRUTH / "peft" / "llama" / "plain_b", "two")
        yield model


@pytest.fixture
def model(shared):
    shared.clear_adapters()
    return shared


def test_an_adapters_life_cycle(model):
    base = model.complete(PROMPTS[0], **ASK).text
    adapter = model.load_adapter(SOURCES["peft"], "mine")
    assert model.find("mine").info.digest == adapter.info.digest
    assert not adapter.info.active
    assert model.complete(PROMPTS[0], **ASK).text == base, "a loaded adapter does nothing yet"
    adapter.apply(0.5)
    half = model.complete(PROMPTS[0], **ASK)
    assert half.adapters == (("mine", 0.5),)
    adapter.scale = 1.0
    whole = model.complete(PROMPTS[0], **ASK).text
    assert adapter.scale == 1.0
    model.apply({"mine": 1.0, "two": -0.5})
    both = model.complete(PROMPTS[0], **ASK).text
    assert len({base, whole, both}) == 3
    model.apply(["mine"])
    assert model.complete(PROMPTS[0], **ASK).text == whole
    adapter.remove()
    assert (adapter.scale, model.complete(PROMPTS[0], **ASK).text) == (None, base)
    adapter.apply()
    model.clear_adapters()
    assert model.complete(PROMPTS[0], **ASK).text == base
    adapter.apply(0)
    assert model.complete(PROMPTS[0], **ASK).text == base, "scale 0 is off"
    adapter.unload()
    assert model.find("mine") is None
    for use in (adapter.apply, adapter.unload, adapter.remove, lambda: adapter.scale):
        with pytest.raises(UnknownAdapterError):
            use()


@pytest.mark.parametrize("kind", SOURCES)
def test_adapters_of_every_format(model, kind):
    adapter = model.load_adapter(SOURCES[kind], kind)
    found = model.logits(PROMPTS[0], adapters={kind: 1.0})
    assert np.abs(found - model.logits(PROMPTS[0], adapters={})).max() > 0.01
    if kind == "gguf":
        expected = model.logits(PROMPTS[0], adapters={"one": 1.0})
        assert np.abs(found - expected).max() < 1e-4
    adapter.unload()


def test_an_onnx_adapter_acts_like_the_folder_it_was_made_from(model, tmp_path):
    path = tmp_path / "a.onnx_adapter"
    write_ort(read_adapter(SOURCES["peft"]), path)
    adapter = model.load_adapter(path, "ort")
    expected = model.logits(PROMPTS[0], adapters={"one": 1.0})
    assert np.abs(model.logits(PROMPTS[0], adapters={"ort": 1.0}) - expected).max() < 1e-4
    adapter.unload()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), 1e39, "1", True])
def test_scales_that_are_not_finite_are_refused(model, scale):
    model.apply({"one": 0.5})
    before = model.logits(PROMPTS[2])
    for use in (
        lambda: model.apply({"one": scale}),
        lambda: model.complete(PROMPTS[0], adapters={"one": scale}),
        lambda: model.find("one").apply(scale),
    ):
        with pytest.raises(ParameterError):
            use()
    np.testing.assert_array_equal(model.logits(PROMPTS[2]), before)


def test_a_scale_set_between_two_pieces_acts_on_the_next_token(model):
    adapter = model.find("one")
    stream = model.stream(PROMPTS[0], max_tokens=10, ignore_eos=True)
    pieces = [next(stream) for _ in range(3)]
    adapter.scale = -1.0
    pieces += list(stream)
    ended = stream.result()
    assert ended.adapters == (("one", -1.0),)
    head = model.complete(PROMPTS[0], adapters={}, max_tokens=3, ignore_eos=True)
    assert [c.token for c in ended.tokens[:3]] == [c.token for c in head.tokens]
    assert "".join(pieces) == ended.text


def test_interleavings_of_prompts_and_sets_equal_cold_models(model):
    sets = [{}, {"one": 1.0}, {"two": 1.0}, {"one": 0.5, "two": -0.5}, {"one": 0.0}]
    pairs = [(prompt, chosen) for prompt in range(len(PROMPTS)) for chosen in range(len(sets))]
    cold = {}
    for prompt, chosen in pairs:
        with open_model(max_batch=1) as other:
            other.load_adapter(SOURCES["peft"], "one")
            other.load_adapter(TRUTH / "peft" / "llama" / "plain_b", "two")
            found = other.complete(PROMPTS[prompt], adapters=sets[chosen], **ASK)
            cold[prompt, chosen] = found.text
    assert len(set(cold.values())) > len(PROMPTS)
    rng = random.Random(3)
    for _ in range(3):
        rng.shuffle(pairs)
        for prompt, chosen in pairs[:8]:
            model.apply(sets[chosen])
            assert model.complete(PROMPTS[prompt], **ASK).text == cold[prompt, chosen]
        requests = [
            Request(prompt=PROMPTS[p], adapters=sets[c], sampling=SamplingParams(**ASK))
            for p, c in pairs
        ]
        found = [answer.text for answer in model.batch(requests)]
        assert found == [cold[pair] for pair in pairs]


def test_coroutines_and_background_loads(model):
    future = model.load_adapter(SOURCES["peft"], "late", wait=False)
    with pytest.raises(NameTakenError):
        model.load_adapter(SOURCES["mlx"], "late")
    late = future.result(60)

    async def main():
        other = await model.aload_adapter(SOURCES["mlx"], "later")
        await other.aapply(0.5)
        await model.aapply({"later": 1.0})
        answer = await model.acomplete(PROMPTS[0], **ASK)
        assert answer.adapters == (("later", 1.0),)
        await other.aremove()
        await model.aclear_adapters()
        pieces = [piece async for piece in model.stream(PROMPTS[0], **ASK)]
        await other.aunload()
        return "".join(pieces)

    assert asyncio.run(main()) == model.complete(PROMPTS[0], **ASK).text
    late.unload()


def test_generation_goes_on_while_an_adapter_is_read_and_converted(model, monkeypatch):
    """The loader is blocked halfway; a whole answer is generated meanwhile."""
    from lorakit.engines.llama import engine

    entered, release, threads = threading.Event(), threading.Event(), []
    write = engine.native_file

    def slow(adapter, base):
        threads.append(threading.current_thread().name)
        entered.set()
        assert release.wait(30)
        return write(adapter, base)  # a context manager

    monkeypatch.setattr(engine, "native_file", slow)
    future = model.load_adapter(TRUTH / "peft" / "llama" / "rslora", "slow", wait=False)
    assert entered.wait(30)
    assert model.complete(PROMPTS[1], max_tokens=30, ignore_eos=True).text
    assert not future.done()
    release.set()
    future.result(60).unload()
    assert threads[0].startswith("lorakit-load")


def test_the_context_is_full(model):
    context = model.capabilities.context
    with pytest.raises(ContextFullError, match=str(context)):
        model.complete([5] * context)
    ended = model.complete([5] * (context - 4), max_tokens=100, ignore_eos=True)
    assert (ended.finish_reason, len(ended.tokens)) == ("length", 5)
    with pytest.raises(ParameterError):
        model.complete([100_000])


def test_a_context_that_the_file_does_not_have_is_a_warning(model):
    limit = model.capabilities.longest
    assert model.warnings == ()
    with open_model(context=4 * limit) as longer:
        assert [warning.code for warning in longer.warnings] == ["context_limited"]
        assert longer.capabilities.context == limit
        with pytest.raises(ContextFullError) as caught:
            longer.complete([5] * limit)
    assert caught.value.hint == f"shorten the prompt: the model's limit is {limit}"


def test_a_deadline_and_a_cancelled_answer(model):
    with pytest.raises(DeadlineError):
        model.complete(PROMPTS[0], max_tokens=200, ignore_eos=True, timeout=0.001)
    stream = model.stream(PROMPTS[0], max_tokens=200, ignore_eos=True)
    next(stream)
    stream.cancel()
    with pytest.raises(CancelledError):
        stream.result(30)
    assert model.complete(PROMPTS[0], **ASK).text


def test_a_long_prefill_is_interrupted_within_a_step(model, monkeypatch):
    """Cancelling interrupts the running native step, through its abort callback."""
    engine = model._runtime._scheduler.engine
    decode, asked, begun, cancelled = Context._run, [], threading.Event(), threading.Event()

    def run(context, *arguments):
        if not begun.is_set():
            begun.set()
            assert cancelled.wait(30)
            asked.append(engine._abort.is_set)
        return decode(context, *arguments)

    monkeypatch.setattr(Context, "_run", run)
    stream = model.stream([1, *[77] * 200], max_tokens=1, lookahead=None)
    assert begun.wait(30)
    stream.cancel()
    cancelled.set()
    with pytest.raises(CancelledError):
        stream.result(30)
    assert asked == [True]
    expected = model.logits(PROMPTS[0])
    monkeypatch.undo()
    np.testing.assert_allclose(model.logits(PROMPTS[0]), expected, atol=1e-4)  # other cells


def test_close_while_others_stream():
    model = open_model()
    model.load_adapter(SOURCES["peft"], "one").apply()
    streams = [model.stream(p, max_tokens=200, ignore_eos=True, lookahead=None) for p in PROMPTS]
    next(streams[0])
    outcomes = []

    def read(stream):
        try:
            outcomes.append(stream.result(30).finish_reason)
        except ClosedError as error:
            outcomes.append(error.code)

    readers = [threading.Thread(target=read, args=(stream,)) for stream in streams]
    for reader in readers:
        reader.start()
    model.close()
    for reader in readers:
        reader.join(30)
    assert len(outcomes) == 3
    assert set(outcomes) <= {"closed", "length"}
    model.close()
    for use in (
        lambda: model.complete(PROMPTS[0]),
        lambda: model.apply({}),
        lambda: model.load_adapter(SOURCES["peft"], "x"),
        lambda: model.load_adapter(SOURCES["peft"], "x", wait=False),
        lambda: model.logits(PROMPTS[0]),
        lambda: model.embed(PROMPTS[0]),
        model.clear_adapters,
    ):
        with pytest.raises(ClosedError):
            use()


def test_a_forgotten_model_frees_contexts_then_adapters_then_the_model(monkeypatch):
    from lorakit.engines.llama import engine

    model = open_model()
    model.load_adapter(SOURCES["peft"], "one").apply()
    model.complete(PROMPTS[0], **ASK)
    running, freed, api = model._runtime._thread, [], engine.llama()

    class Spy:
        def __getattr__(self, name):
            if name in ("llama_free", "llama_adapter_lora_free", "llama_model_free"):
                freed.append(name)
            return getattr(api, name)

    monkeypatch.setattr(engine, "llama", Spy)
    for held in model._runtime._scheduler.engine._pool:
        held._api = Spy()
    del model
    gc.collect()
    running.join(30)
    assert not running.is_alive()
    contexts = freed.count("llama_free")
    assert contexts
    assert freed == ["llama_free"] * contexts + ["llama_adapter_lora_free", "llama_model_free"]


def test_two_models_at_once(model):
    with open_model() as other:
        other.load_adapter(SOURCES["peft"], "one").apply()
        model.apply({"one": 1.0})
        assert other.complete(PROMPTS[0], **ASK).text == model.complete(PROMPTS[0], **ASK).text
        model.clear_adapters()
        assert other.adapters[0].active
    assert model.complete(PROMPTS[0], **ASK).text


def test_the_demo_answers_as_with_onnx_runtime(tmp_path):
    pytest.importorskip("onnxruntime", reason="it is what the answers are compared with")
    path = write_demo(tmp_path / "demo.gguf")
    with (
        lorakit.open(demo.base_path(), threads=1) as onnx,
        lorakit.open(path, threads=1) as native,
    ):
        for name in demo.ADAPTERS:
            onnx.load_adapter(demo.adapter_path(name), name)
            native.load_adapter(demo.adapter_path(name), name)
        for name, split in (("home", "values"), ("shop", "values")):
            for example in demo.examples(name, split)[:4]:
                ids = onnx.chat_prompt(list(example.messages), tools=example.tools)
                for chosen in ({}, {name: 1.0}, {"home": 0.5, "style": 0.5}):
                    expected = onnx.complete(ids, adapters=chosen, max_tokens=40)
                    found = native.complete(ids, adapters=chosen, max_tokens=40)
                    assert [c.token for c in found.tokens] == [c.token for c in expected.tokens]
                    assert found.text == expected.text


def test_a_path_that_is_not_ascii(tmp_path):
    folder = tmp_path / "Modèle 模型"
    folder.mkdir()
    path = folder / "ż.gguf"
    path.write_bytes(base_file("llama").read_bytes())
    adapter = folder / "адаптер.gguf"
    adapter.write_bytes(SOURCES["gguf"].read_bytes())
    with lorakit.open(path, threads=1) as model:
        model.load_adapter(adapter).apply()
        assert model.complete(PROMPTS[0], **ASK).text
