"""Rows, sequences, scales and invocations of the torch engine; and what it refuses."""

import sys

import numpy as np
import pytest

import lorakit
from lorakit import demo
from lorakit.base.folder import Base
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import EngineOptions
from lorakit.engines.table import open_engine
from lorakit.engines.torch.options import TorchOptions
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    ContextFullError,
    EngineError,
    MissingExtraError,
    ParameterError,
)
from onnx_cases import logits_of, row, truth_adapter
from onnx_cases import open_engine as open_onnx
from torch_cases import open_torch, truth_base

pytest.importorskip("transformers", reason="the torch engine needs the extra torch")

from lorakit.engines.torch.loading import cache_argument

IDS = np.random.default_rng(3).integers(12, 508, 45)
INVOKED = np.concatenate([IDS[:9], [10, 11], IDS[9:20], [10, 11], IDS[20:30]])


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def engine(request):
    opened = open_torch(truth_base(request.param), max_batch=4, cached_sequences=2)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def llama():
    opened = open_torch(truth_base("llama"))
    yield opened
    opened.close()


def close(found, expected, atol=3e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("chunk", [1, 7, 44])
def test_chunked_prefill_equals_one_shot(engine, chunk):
    close(logits_of(engine, IDS, chunk=chunk), logits_of(engine, IDS))


class Before:  # transformers 5.24
    def forward(self, input_ids=None, past_key_values=None, use_cache=None):
        """Knows the old name alone."""


class After:
    def forward(self, input_ids=None, cache=None, use_cache=None, **kwargs):
        """Takes the old name too, with a warning."""


@pytest.mark.parametrize(("model", "name"), [(Before(), "past_key_values"), (After(), "cache")])
def test_the_kv_cache_goes_by_the_name_of_the_version(model, name):
    assert cache_argument(model) == name


def test_long_rows_are_chunked_inside(engine, monkeypatch):
    whole = logits_of(engine, IDS)
    monkeypatch.setattr("lorakit.engines.torch.engine.MAX_NEW", 13)
    close(logits_of(engine, IDS), whole)
    sequence = engine.open_sequence()
    assert engine.forward([row(sequence, IDS[:40], (), "none")])[0].shape == (0, 512)
    close(engine.forward([row(sequence, IDS[40:], (), "last")])[0], whole[-1:])
    engine.close_sequence(sequence)


def test_fork_and_truncate(engine):
    """Beyond a sliding window of 16 too: any length can be cut off again."""
    expected = logits_of(engine, IDS)
    sequence = engine.open_sequence()
    engine.forward([row(sequence, IDS[:30])])
    copy = engine.fork(sequence, 12)
    engine.forward([row(copy, IDS[::-1][:10])])  # the copy goes its own way
    close(engine.forward([row(sequence, IDS[30:])])[0], expected[30:])
    for length in (12, 0):
        engine.truncate(copy, length)
        close(engine.forward([row(copy, IDS[length:])])[0], expected[length:])
    for bad in (-1, 46):
        with pytest.raises(EngineError, match="cannot truncate"):
            engine.truncate(copy, bad)
        with pytest.raises(EngineError, match="cannot fork"):
            engine.fork(copy, bad)
    assert engine.length(copy) == 45
    for opened in (sequence, copy):
        engine.close_sequence(opened)


def test_mixed_rows_equal_separate_runs(engine):
    base = "gemma3" if len(engine._base.decoder.layers) == 6 else "llama"
    names = ("plain", "dora", "norm_save" if base == "gemma3" else "trainable_tokens")
    a, b, c = (engine.attach(engine.prepare(truth_adapter(base, name))) for name in names)
    sets = [((a, 1.0),), (), ((b, 0.5), (a, -0.3)), ((c, 1.0), (b, 1.0))]
    expected = [logits_of(engine, IDS, held) for held in sets]
    sequences = [engine.open_sequence() for _ in sets]
    for begin, end in ((0, 17), (17, 18), (18, 19), (19, 30)):
        rows = [row(s, IDS[begin:end], held) for s, held in zip(sequences, sets, strict=True)]
        for found, wanted in zip(engine.forward(rows), expected, strict=True):
            close(found, wanted[begin:end], atol=6e-5)
    for sequence in sequences:
        engine.close_sequence(sequence)
    for handle in (a, b, c):
        engine.detach(handle)


def test_rescaling_with_kept_kv_is_what_the_onnx_engine_does(engine):
    base = "gemma3" if len(engine._base.decoder.layers) == 6 else "llama"
    other, results = open_onnx(truth_base(base)), []
    for each in (engine, other):
        handle = each.attach(each.prepare(truth_adapter(base, "plain")))
        sequence = each.open_sequence()
        parts = [
            each.forward([row(sequence, IDS[at : at + 9], ((handle, scale),))])[0].copy()
            for at, scale in zip(range(0, 45, 9), (1.0, 0.4, 0.0, -0.5, 2.0), strict=True)
        ]
        results.append(np.concatenate(parts))
        each.close_sequence(sequence)
        each.detach(handle)
    close(*results, atol=1.5e-4)
    other.close()


def test_rescaling_copies_no_weights_and_the_base_runs_bare(engine):
    base = "gemma3" if len(engine._base.decoder.layers) == 6 else "llama"
    handle = engine.attach(engine.prepare(truth_adapter(base, "plain")))
    overlays, model = engine._overlays, engine._overlays.places.model
    for step in range(40):
        logits_of(engine, IDS[:2], ((handle, 0.1 * (step + 1)),))
    assert len(overlays._kept) == 16
    assert not any(overlay.parameters for overlay in overlays._kept.values())
    assert any(module._forward_hooks for module in model.modules())
    logits_of(engine, IDS[:2])
    assert not any(module._forward_hooks for module in model.modules())
    engine.detach(handle)
    assert not overlays._kept


def test_saved_kv_goes_on(llama):
    sequence = llama.open_sequence()
    expected = llama.forward([row(sequence, IDS[:20])])[0]
    state = llama.save_sequence(sequence)
    expected = llama.forward([row(sequence, IDS[20:22])])[0]
    loaded = llama.load_sequence(state, 20)
    close(llama.forward([row(loaded, IDS[20:22])])[0], expected)
    for broken in (state[:-7], b"", b"nothing"):
        with pytest.raises(EngineError):
            llama.load_sequence(broken, 20)
    with pytest.raises(EngineError):
        llama.load_sequence(state, 19)
    for name in (sequence, loaded):
        llama.close_sequence(name)


# Refusals and failures.


def test_a_failed_step_changes_nothing(engine, monkeypatch):
    expected = logits_of(engine, IDS)
    one, two = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(one, IDS[:10]), row(two, IDS[:12])])
    overlays, run, calls = type(engine._overlays), type(engine._overlays).run, []

    def fails_second(self, held, **arguments):
        calls.append(held)
        if len(calls) % 2 == 0:
            raise RuntimeError(messages[len(calls) // 2 - 1])
        return run(self, held, **arguments)

    messages = ("no luck", "CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr(overlays, "run", fails_second)
    for code in ("engine_failed", "out_of_memory"):
        with pytest.raises(EngineError) as failed:
            engine.forward([row(one, IDS[10:11]), row(two, IDS[12:20])])
        assert failed.value.code == code
    monkeypatch.undo()
    assert (engine.length(one), engine.length(two)) == (10, 12)
    close(engine.forward([row(one, IDS[10:])])[0], expected[10:])
    for sequence in (one, two):
        engine.close_sequence(sequence)


def test_rows_that_cannot_run(engine):
    sequences = [engine.open_sequence() for _ in range(6)]
    with pytest.raises(EngineError, match="sequences are open"):
        engine.open_sequence()
    with pytest.raises(EngineError, match="max_batch"):
        engine.forward([row(s, [5]) for s in sequences[:5]])
    with pytest.raises(EngineError, match="twice"):
        engine.forward([row(sequences[0], [5])] * 2)
    with pytest.raises(EngineError, match="handle 99"):
        engine.forward([row(sequences[0], [5], ((99, 1.0),))])
    for tokens in ([], [512], [-1], [[3]]):
        with pytest.raises(ParameterError):
            engine.forward([row(sequences[0], tokens)])
    for scale in (float("nan"), float("inf")):
        base = "gemma3" if len(engine._base.decoder.layers) == 6 else "llama"
        handle = engine.attach(engine.prepare(truth_adapter(base, "plain")))
        with pytest.raises(ParameterError, match="finite"):
            engine.forward([row(sequences[0], [5], ((handle, scale),))])
        engine.detach(handle)
    with pytest.raises(ContextFullError):
        engine.forward([row(sequences[0], np.full(9000, 5))])
    assert engine.forward([]) == []
    assert {engine.length(sequence) for sequence in sequences} == {0}
    for sequence in sequences:
        engine.close_sequence(sequence)
    with pytest.raises(EngineError, match="no open sequence"):
        engine.length(sequences[0])


def test_two_engines_and_a_closed_one(llama):
    other, expected = open_torch(truth_base("llama"), context=40), logits_of(llama, IDS)
    handle = other.attach(other.prepare(truth_adapter("llama", "dora")))
    logits_of(other, IDS[:40], ((handle, 1.0),))
    np.testing.assert_array_equal(logits_of(llama, IDS), expected)
    other.close()
    other.close()
    for use in (
        lambda: other.open_sequence(),
        lambda: other.attach(other.prepare(truth_adapter("llama", "plain"))),
        lambda: other.forward([]),
        lambda: other.detach(handle),
        lambda: other.length(1),
    ):
        with pytest.raises(ClosedError):
            use()


def test_options(monkeypatch):
    import torch

    base = Base.open(truth_base("llama"))
    with pytest.raises(CapabilityError, match="float32") as refused:
        open_engine("torch", base, OnnxOptions(quantize="int8"))
    assert "onnx" in refused.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules["lorakit.engines.torch.loading"].DEVICES, "cuda", lambda: False)
    with pytest.raises(CapabilityError, match="no cuda device"):
        open_engine("torch", base, TorchOptions(device="cuda"))
    with pytest.raises(CapabilityError, match="runs on the CPU"):
        open_engine("onnx", base, TorchOptions(device="cuda"))
    with pytest.raises(ParameterError, match="device must be one of"):
        TorchOptions(device="tpu")
    monkeypatch.setitem(sys.modules, "lorakit.engines.torch.engine", None)
    with pytest.raises(MissingExtraError, match="needs torch and transformers") as missing:
        open_engine("torch", base, EngineOptions())
    assert "lorakit[torch]" in missing.value.hint


def test_a_folder_cannot_bring_code_or_another_model(tmp_path):
    """What transformers' own loaders would follow: an adapter_config.json, remote code, a hub."""
    import json
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(truth_base("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"},
        "attn_implementation": "kernels-community/flash-attn",
        "_name_or_path": "someone/else",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    engine, plain = open_torch(folder), open_torch(truth_base("llama"))
    np.testing.assert_array_equal(logits_of(engine, IDS), logits_of(plain, IDS))
    engine.close()
    plain.close()


# The user's side.


def test_the_same_text_as_the_onnx_engine():
    prompts = ["turn on the lamp", "add milk to the list", "Once"]
    texts = []
    for engine in ("onnx", "torch"):
        with lorakit.open(demo.base_path(), engine=engine, threads=1) as model:
            assert model.capabilities.engine == engine
            for name in ("home", "shop"):
                model.load_adapter(demo.adapter_path(name))
            scales = [{"home": 1.0}, {"shop": 1.0, "home": 0.2}, {}]
            replies = [
                model.chat([{"role": "user", "content": p}], adapters=s, max_tokens=24)
                for p, s in zip(prompts, scales, strict=True)
            ]
            texts.append([reply.completion.tokens for reply in replies])
    assert texts[0] == texts[1]


def test_prefixes_are_reused_exactly_with_an_invocation():
    """A second turn in which the invocation comes again gives what a cold model gives."""
    turns = [INVOKED[:20].tolist(), INVOKED.tolist()]
    with lorakit.open(truth_base("llama"), engine="torch", threads=1) as model:
        model.load_adapter(truth_adapter("llama", "alora"), "alora")
        model.apply({"alora": 1.0})
        warm = [model.complete(turn, max_tokens=8, ignore_eos=True).tokens for turn in turns]
    for turn, tokens in zip(turns, warm, strict=True):
        with lorakit.open(truth_base("llama"), engine="torch", threads=1) as model:
            model.load_adapter(truth_adapter("llama", "alora"), "alora")
            cold = model.complete(turn, max_tokens=8, ignore_eos=True, adapters={"alora": 1.0})
            assert cold.tokens == tokens


def test_positions_are_rows_of_all(engine):
    every, wanted = logits_of(engine, IDS), (0, 3, 17, 44)
    sequence = engine.open_sequence()
    found = engine.forward([row(sequence, IDS, logits=wanted)])[0]
    engine.close_sequence(sequence)
    assert found.shape == (4, every.shape[1])
    close(found, every[list(wanted)])
