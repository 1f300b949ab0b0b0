"""The llama.cpp engine against logits that PEFT recorded, and against files of llama.cpp's tools.

ggml's table of GELU puts gemma3 about 1e-3 away from PEFT, whatever is done.
"""

import itertools

import numpy as np
import pytest
from llama_cases import TRUTH, logits_of, open_engine, truth_adapter

from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import CapabilityError
from lorakit.formats import read_adapter

CLOSE = {"gemma3": 2e-3, "llama": 1e-4}
CASES = [
    *(("gemma3", name) for name in ("plain", "plain_b", "rslora", "patterns", "layers")),
    *(("llama", name) for name in ("plain", "plain_b", "rslora", "bf16", "embed_lmhead")),
]
REFUSED = [("gemma3", "dora"), ("gemma3", "embed_only"), ("gemma3", "norm_save"), ("llama", "dora")]


@pytest.fixture(scope="module")
def case(request):
    """A base's name, and the engine that runs it."""
    engine = open_engine(request.param, contexts=2)
    yield request.param, engine
    engine.close()


on_each_base = pytest.mark.parametrize("case", CLOSE, indirect=True)


def worst(engine, folder, adapters, prefix):
    """The largest difference from the recorded logits over the three sequences."""
    with np.load(folder / "logits.npz") as truth:
        return max(
            float(
                np.abs(logits_of(engine, truth[f"ids{i}"], adapters) - truth[f"{prefix}{i}"]).max()
            )
            for i in range(3)
        )


@on_each_base
def test_the_base(case):
    name, engine = case
    with np.load(TRUTH / "bases" / name / "base_logits.npz") as truth:
        for i in range(3):
            found = logits_of(engine, truth[f"ids{i}"])
            assert np.abs(found - truth[f"logits{i}"]).max() < CLOSE[name]


@pytest.mark.parametrize(("case", "adapter"), CASES, indirect=["case"])
def test_adapters_of_peft(case, adapter):
    name, engine = case
    folder = TRUTH / "peft" / name / adapter
    handle = engine.attach(engine.prepare(truth_adapter(name, adapter)))
    for scale in (1.0, 0.5):
        assert worst(engine, folder, ((handle, scale),), f"scale{scale:g}_") < CLOSE[name]
    engine.detach(handle)


@pytest.mark.parametrize(("case", "adapter"), REFUSED, indirect=["case"])
def test_what_llama_cpp_cannot_apply_is_refused_with_a_hint(case, adapter):
    name, engine = case
    with pytest.raises(CapabilityError, match="cannot apply") as caught:
        engine.attach(engine.prepare(truth_adapter(name, adapter)))
    assert caught.value.items
    assert "merge" in caught.value.hint


@on_each_base
def test_files_that_llama_cpps_converter_wrote(case):
    name, engine = case
    decoder = engine._base.decoder
    for adapter in ("plain", "plain_b"):
        handle = engine.attach(
            engine.prepare(read_adapter(TRUTH / "gguf" / f"{name}.{adapter}.f32.gguf", decoder))
        )
        assert (
            worst(engine, TRUTH / "peft" / name / adapter, ((handle, 1.0),), "scale1_")
            < CLOSE[name]
        )
        engine.detach(handle)


@on_each_base
def test_two_adapters_and_every_order_of_applying_and_removing(case):
    """A negative scale takes away what the same adapter adds; the order changes nothing."""
    name, engine = case
    one, two = (
        engine.attach(engine.prepare(truth_adapter(name, adapter)))
        for adapter in ("plain", "plain_b")
    )
    ids = list(range(5, 30))
    with_both = logits_of(engine, ids, ((one, 1.0), (two, 0.5)))
    base = logits_of(engine, ids)
    assert np.abs(with_both - base).max() > 0.1
    sets = [(), ((one, 1.0),), ((two, 1.0),), ((one, -0.5),), ((one, 1.0), (two, 0.5))]
    cold = {chosen: logits_of(engine, ids, chosen) for chosen in sets}
    for order in itertools.permutations(sets, 3):
        for chosen in order:
            np.testing.assert_array_equal(logits_of(engine, ids, chosen), cold[chosen])
    other = logits_of(engine, ids, ((two, 0.5), (one, 1.0)))
    assert np.abs(other - with_both).max() < CLOSE[name]
    again = engine.attach(engine.prepare(truth_adapter(name, "plain")))
    nothing = logits_of(engine, ids, ((one, 0.7), (again, -0.7)))
    assert np.abs(nothing - base).max() < CLOSE[name]
    for handle in (one, two, again):
        engine.detach(handle)


@on_each_base
def test_an_f16_kv_cache_is_close(case):
    name, _ = case
    engine = open_engine(name, kv_type="f16")
    with np.load(TRUTH / "bases" / name / "base_logits.npz") as truth:
        found = logits_of(engine, truth["ids2"])
        assert np.abs(found - truth["logits2"]).max() < 0.1
    engine.close()


@pytest.mark.parametrize(
    ("adapter", "base", "near"),
    [
        ("phi3", "phi3", 1e-4),
        ("gpt2", "gpt2", 3e-3),  # the table of GELU again
        ("qwen3_moe", "qwen3_moe", 1e-4),
        ("qwen3_moe_experts", "qwen3_moe", 1e-4),
    ],
)
def test_families_that_run_only_as_gguf_files_or_in_torch(adapter, base, near):
    folder = TRUTH / "llama_cpp" / adapter
    opened = open_gguf_base(TRUTH / "llama_cpp" / base / "base.f32.gguf")
    engine = LlamaEngine.open(opened, LlamaOptions(threads=1))
    handle = engine.attach(engine.prepare(read_adapter(folder, opened.decoder)))
    with np.load(folder / "logits.npz") as truth:
        for kind, chosen in (("base", ()), ("adapted", ((handle, 1.0),))):
            assert np.abs(logits_of(engine, truth["ids"], chosen) - truth[kind]).max() < near
    engine.close()
