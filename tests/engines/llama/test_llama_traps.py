"""The traps in llama.cpp's adapter functions, one test each, and that we avoid them.

If llama.cpp would crash, the test shows that the file or call never reaches it.
"""

import ctypes
import logging
import os
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from llama_cases import TRUTH, base_file, logits_of, open_engine, row, truth_adapter

import lorakit
from lorakit.adapter import Adapter, Delta, Precondition
from lorakit.base.gguf import open_gguf_base
from lorakit.check import check
from lorakit.engines.llama.adapter_file import native_file
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.native import captured_log, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import (
    CapabilityError,
    EngineError,
    FormatError,
    LorakitError,
    MismatchError,
    ParameterError,
    SourceError,
)
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats import read_adapter
from lorakit.sources.prune import entries

IDS = list(range(5, 25))
PLAIN = TRUTH / "gguf" / "llama.plain.f32.gguf"


@pytest.fixture(scope="module")
def engine():
    engine = open_engine("llama", max_batch=4, cached_sequences=4, contexts=2)
    yield engine
    engine.close()


@pytest.fixture
def model():
    with lorakit.open(base_file("llama"), threads=1, max_batch=2) as model:
        yield model


@pytest.fixture
def never_native(monkeypatch):
    """Loading an adapter natively is a failure."""
    api = llama()
    refused = pytest.fail

    def init(*_):
        refused("an adapter's file reached llama.cpp")

    monkeypatch.setattr(api, "llama_adapter_lora_init", init)


def changed(path, values=None, tensors=None, drop=(), source=PLAIN):
    """A good adapter's file with other values or tensors."""
    file = open_gguf(source)
    held = {name: tensor.array() for name, tensor in file.tensors.items()}
    kept = {name: v for name, v in {**file.values, **(values or {})}.items() if name not in drop}
    with path.open("wb") as out:
        write_gguf_file(
            out, kept, {k: v for k, v in {**held, **(tensors or {})}.items() if k not in drop}
        )
    return path


# Pointers and addresses.


def test_a_missing_file_gives_a_falsy_pointer_that_is_not_none(engine, tmp_path, monkeypatch):
    path = tmp_path / "missing.gguf"
    with captured_log() as native_log:
        pointer = llama().llama_adapter_lora_init(engine._model, os.fsencode(path))
    assert not pointer
    assert native_log.reasons
    monkeypatch.setattr("lorakit.engines.llama.engine.native_file", lambda *_: nullcontext(path))
    with pytest.raises(EngineError, match="cannot load the adapter") as caught:
        engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    assert "missing.gguf" in str(caught.value)


def test_an_adapter_is_deactivated_in_every_context_before_it_is_freed(engine):
    keep, gone = (
        engine.attach(engine.prepare(truth_adapter("llama", n))) for n in ("plain", "plain_b")
    )
    base = logits_of(engine, IDS)
    sequences = [engine.open_sequence() for _ in range(2)]
    both = ((keep, 1.0), (gone, 1.0))
    engine.forward([row(sequences[0], IDS, both), row(sequences[1], IDS, ((gone, 0.5),))])
    in_force = [context for context in engine._pool if len(context.set)]
    assert len(in_force) == 2
    engine.detach(gone)
    assert all(context.set == () for context in in_force)
    assert np.abs(logits_of(engine, IDS) - base).max() < 1e-4
    for sequence in sequences:
        engine.close_sequence(sequence)
    engine.detach(keep)


def test_a_reused_address_with_the_same_scale_is_another_set(engine):
    """llama.cpp compares addresses, and malloc gives a freed one to the next adapter."""
    expected, addresses = {}, []
    for name in ("plain", "plain_b") * 10:
        handle = engine.attach(engine.prepare(truth_adapter("llama", name)))
        addresses.append(ctypes.cast(engine._adapters[handle], ctypes.c_void_p).value)
        found = logits_of(engine, IDS, ((handle, 1.0),))
        engine.detach(handle)
        np.testing.assert_array_equal(found, expected.setdefault(name, found))
    assert np.abs(expected["plain"] - expected["plain_b"]).max() > 0.01
    assert len(set(addresses)) < len(addresses), "no address was reused: nothing was tested"


def test_an_adapter_of_another_model_has_no_handle_here(engine):
    other = open_engine("llama")
    foreign = [other.attach(other.prepare(truth_adapter("llama", "plain"))) for _ in range(30)][-1]
    with pytest.raises(EngineError, match="no adapter"):
        logits_of(engine, IDS, ((foreign + 1000, 1.0),))
    other.close()


# Scales and sets.


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_scales_never_arrive(engine, scale):
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    with pytest.raises(ParameterError, match="finite"):
        logits_of(engine, IDS, ((handle, scale),))
    assert np.isfinite(logits_of(engine, IDS, ((handle, 1.0),))).all()
    engine.detach(handle)


def test_scale_0_is_the_base_bit_for_bit(engine):
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    base = logits_of(engine, IDS)
    for zero in (0.0, -0.0):
        np.testing.assert_array_equal(logits_of(engine, IDS, ((handle, zero),)), base)
    engine.detach(handle)


def test_a_negative_scale_is_no_error(engine):
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    base, more = logits_of(engine, IDS), logits_of(engine, IDS, ((handle, 1e-3),))
    less = logits_of(engine, IDS, ((handle, -1e-3),))
    assert np.abs((more - base) + (less - base)).max() < 0.1 * np.abs(more - base).max()
    engine.detach(handle)


def test_scales_of_duplicates_are_added_where_llama_cpp_keeps_the_first(engine):
    handle = engine.attach(engine.prepare(truth_adapter("llama", "plain")))
    twice = logits_of(engine, IDS, ((handle, 0.75), (handle, 0.25)))
    np.testing.assert_array_equal(twice, logits_of(engine, IDS, ((handle, 1.0),)))
    none = logits_of(engine, IDS, ((handle, 0.75), (handle, -0.75)))
    np.testing.assert_array_equal(none, logits_of(engine, IDS))
    engine.detach(handle)


def test_kv_is_not_reused_after_a_switch(model):
    """ggml-org/llama.cpp#26207: the same prompt under other adapters, in every order."""
    model.load_adapter(TRUTH / "peft" / "llama" / "plain", "a")
    prompt, ask = [1, *range(30, 90)], {"max_tokens": 10, "ignore_eos": True}
    sets = [{}, {"a": 1.0}, {"a": 0.5}]
    cold = []
    for chosen in sets:
        with lorakit.open(base_file("llama"), threads=1, max_batch=2) as other:
            other.load_adapter(TRUTH / "peft" / "llama" / "plain", "a")
            cold.append(other.complete(prompt, adapters=chosen, **ASK_LOGPROBS, **ask))
    for order in ([0, 1, 0, 2, 1, 0], [1, 0, 1, 2], [2, 0, 2, 1]):
        for at in order:
            found = model.complete(prompt, adapters=sets[at], **ASK_LOGPROBS, **ask)
            assert [c.token for c in found.tokens] == [c.token for c in cold[at].tokens]
            gap = [abs(f.logprob - c.logprob) for f, c in zip(found.tokens, cold[at].tokens)]  # noqa: B905
            assert max(gap) < 1e-4
    assert found.cached_tokens > 0, "the cache was never met"


ASK_LOGPROBS = {"logprobs": 0}


def test_saved_states_know_their_adapters(model, tmp_path):
    model.load_adapter(TRUTH / "peft" / "llama" / "plain", "a")
    prompt, path = [1, *range(30, 90)], tmp_path / "state"
    model.save_state(prompt, path, adapters={"a": 1.0})
    with lorakit.open(base_file("llama"), threads=1, max_batch=2) as other:
        other.load_adapter(TRUTH / "peft" / "llama" / "plain", "renamed")
        other.load_state(path)
        assert other.complete([*prompt, 7], adapters={}, max_tokens=1).cached_tokens == 0
        half = other.complete([*prompt, 8], adapters={"renamed": 0.5}, max_tokens=1)
        assert half.cached_tokens == 0
        same = other.complete([*prompt, 9], adapters={"renamed": 1.0}, max_tokens=1)
        assert same.cached_tokens == len(prompt)


# Files that llama.cpp silently accepts, or crashes on.


def test_a_token_embd_lora_on_a_tied_base_is_refused_before(never_native):
    engine = open_engine("gemma3")
    with pytest.raises(CapabilityError) as caught:
        engine.attach(engine.prepare(truth_adapter("gemma3", "embed_only")))
    assert "embed_tokens" in str(caught.value)
    engine.close()


@pytest.mark.parametrize("value", [Value("str", "8"), Value("u32", 8), Value("bool", True)])
def test_alpha_with_another_kv_type_does_not_arrive(model, tmp_path, value, never_native):
    path = changed(tmp_path / "a.gguf", {"adapter.lora.alpha": value})
    with pytest.raises(FormatError, match=r"adapter\.lora\.alpha"):
        model.load_adapter(path, "a")


@pytest.mark.parametrize("value", [Value("u32", 1), Value("bool", True), Value("f32", 0.5)])
def test_general_type_with_another_kv_type_does_not_arrive(model, tmp_path, value, never_native):
    path = changed(tmp_path / "a.gguf", {"general.type": value})
    with pytest.raises(FormatError, match=r"general\.type"):
        model.load_adapter(path, "a")


def test_a_missing_alpha_is_the_scale_1_that_llama_cpp_makes_of_it(model, tmp_path):
    path = changed(tmp_path / "a.gguf", drop=("adapter.lora.alpha",))
    adapter = read_adapter(path, model.base.decoder)
    assert {delta.scale for delta in adapter.deltas} == {1.0}


def test_a_file_without_tensors_is_not_an_adapter(model, tmp_path, never_native):
    names = tuple(open_gguf(PLAIN).tensors)
    with pytest.raises(LorakitError):
        model.load_adapter(changed(tmp_path / "a.gguf", drop=names), "a")


def test_norm_only_files_and_lora_on_a_norm(model, tmp_path, never_native):
    names = tuple(open_gguf(PLAIN).tensors)
    ones = np.ones((64, 1), np.float32)
    pair = {"blk.0.attn_norm.weight.lora_a": ones[:1], "blk.0.attn_norm.weight.lora_b": ones}
    for tensors in (pair, {"blk.0.attn_norm.weight": ones[:, 0]}):
        path = changed(tmp_path / "a.gguf", tensors=tensors, drop=names)
        with pytest.raises(LorakitError, match="attn_norm"):
            model.load_adapter(path, "a")


def test_a_half_pair_and_a_wrong_shape_are_named(model, tmp_path, never_native):
    name = "blk.0.attn_q.weight.lora_a"
    with pytest.raises(FormatError, match="other half") as caught:
        model.load_adapter(changed(tmp_path / "a.gguf", drop=(name,)), "a")
    assert "0.self_attn.q_proj" in str(caught.value)
    wide = np.zeros((4, 96), np.float32)
    with pytest.raises(LorakitError, match=r"q_proj|attn_q"):
        model.load_adapter(changed(tmp_path / "b.gguf", tensors={name: wide}), "b")


@pytest.mark.parametrize("more", [1, -1])
def test_experts_that_the_base_has_not_are_refused(never_native, more):
    """ne[2] of an adapter is not compared natively (llama.cpp#29128: it writes out of bounds)."""
    base = open_gguf_base(TRUTH / "llama_cpp" / "qwen3_moe" / "base.f32.gguf")
    engine = LlamaEngine(base, LlamaOptions(threads=1))
    module = "model.layers.0.mlp.experts.gate_proj"
    shape = base.decoder.modules()[module]
    experts = shape.experts + more
    a = np.zeros((experts, 2, shape.in_features), np.float32)
    b = np.zeros((experts, shape.out_features, 2), np.float32)
    with pytest.raises(MismatchError, match="experts"):
        engine.prepare(Adapter(deltas=(Delta(module=module, a=a, b=b, scale=1.0),)))
    engine.close()


def test_a_layer_beyond_the_bases_is_refused(model, never_native):
    module = "model.layers.9.self_attn.q_proj"
    a, b = np.ones((2, 64), np.float32), np.ones((64, 2), np.float32)
    adapter = Adapter(deltas=(Delta(module=module, a=a, b=b, scale=1.0),))
    with pytest.raises(MismatchError, match=r"layers\.9"):
        model.load_adapter(adapter, "deep")


def test_the_fingerprint_tells_bases_of_the_same_shapes_apart(model):
    adapter = read_adapter(TRUTH / "peft" / "llama" / "plain")
    for fingerprint, expected in (("0" * 64, ["base fingerprint"]), (model.base.fingerprint, [])):
        asked = replace(adapter, precondition=Precondition(fingerprint=fingerprint))
        assert [m.item for m in check(asked, model.base)] == expected


def test_an_adapter_of_another_architecture_is_refused(model, never_native):
    with pytest.raises(LorakitError) as caught:
        model.load_adapter(TRUTH / "gguf" / "gemma3.plain.f32.gguf", "gemma")
    assert caught.value.code in ("adapter_mismatch", "format_invalid", "format_unsupported")


# Its log.


def test_the_level_of_errors_is_4_and_reasons_are_captured(model, tmp_path, caplog):
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with captured_log() as native_log, caplog.at_level(logging.ERROR, "lorakit.llama"):
        assert not llama().llama_model_load_from_file(
            os.fsencode(path), llama().llama_model_default_params()
        )
    assert any("failed" in reason for reason in native_log.reasons)
    assert not caplog.records, "what an exception will say is not logged as well"
    with caplog.at_level(logging.ERROR, "lorakit.llama"):
        llama().llama_model_load_from_file(os.fsencode(path), llama().llama_model_default_params())
    assert caplog.records, "what nobody captures is logged, at its own level"


def test_a_damaged_cached_adapter_is_written_again(engine, tmp_path, monkeypatch, caplog):
    """llama.cpp does not check the weights it loads, and would refuse a short file for ever."""
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    adapter = truth_adapter("llama", "plain")
    with native_file(adapter, engine._base) as path:
        written = path.read_bytes()
    names = [entry.name for entry in entries() if entry.kind == "llama"]
    assert names == [f"{engine._base.name} + adapter {adapter.digest[:12]}"]
    damaged = [bytearray(written) for _ in range(3)]
    damaged[0][-8] ^= 0x40
    damaged[1][len(written) // 2] ^= 1
    damaged[2] = damaged[2][: len(written) // 2]
    expected = logits_with(engine, adapter)
    for content in damaged:
        path.write_bytes(content)
        np.testing.assert_array_equal(logits_with(engine, adapter), expected)
        assert path.read_bytes() == written
    assert "is not what was written" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_error(engine, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file"))
    assert np.isfinite(logits_with(engine, truth_adapter("llama", "plain"))).all()


def logits_with(engine, adapter):
    handle = engine.attach(engine.prepare(adapter))
    try:
        return logits_of(engine, IDS, ((handle, 1.0),)).copy()
    finally:
        engine.detach(handle)


def test_a_path_that_is_not_ascii(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "Ł cache 模"))
    adapter = truth_adapter("llama", "plain")
    handle = engine.attach(engine.prepare(adapter))
    with native_file(adapter, engine._base) as path:
        assert "模" in str(path)
    engine.detach(handle)


def test_more_sequences_than_outputs_of_a_step_do_not_abort():
    """llama.cpp aborts the process if n_outputs_max is below n_seq_max."""
    engine = open_engine("llama", max_batch=1, cached_sequences=60, micro_batch=32)
    assert np.isfinite(logits_of(engine, list(range(5, 100)))).all()
    engine.close()


def test_more_sequences_than_llama_cpp_has_are_fewer_prefixes_or_refused():
    engine = open_engine("llama", max_batch=200, cached_sequences=100)
    assert engine.capabilities.max_sequences == 256
    assert np.isfinite(logits_of(engine, IDS)).all()
    engine.close()
    with pytest.raises(ParameterError, match="256"):
        open_engine("llama", max_batch=257)


def test_control_tokens_are_shown(model):
    assert model.tokenizer.decode([1]) == model.tokenizer.special_tokens["bos_token"] != ""


def test_the_abort_callback_leaves_a_usable_context(engine, monkeypatch):
    sequence = engine.open_sequence()
    monkeypatch.setattr(engine._abort, "clear", lambda: None)
    engine.interrupt()
    with pytest.raises(LorakitError) as caught:
        engine.forward([row(sequence, IDS)])
    assert caught.value.code == "cancelled"
    monkeypatch.undo()
    assert engine.length(sequence) == 0
    engine.forward([row(sequence, IDS)])
    engine.close_sequence(sequence)


def test_there_is_no_file(model, tmp_path):
    with pytest.raises(SourceError) as caught:
        model.load_adapter(tmp_path / "no.gguf", "a")
    assert caught.value.code == "source_not_found"
