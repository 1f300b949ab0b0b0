"""The engine's numbers against those that transformers and PEFT recorded."""

import numpy as np
import pytest

from lorakit.errors import CapabilityError
from onnx_cases import (
    CASES,
    DATA,
    TRUTH,
    logits_of,
    merged_base,
    open_engine,
    truth_adapter,
    truth_base,
)

OTHERS = {  # families that the graph does not compute, and what of each
    "gpt2": [
        "learned positions",
        "LayerNorm with a bias",
        "heads of 8, which 16 does not divide",
    ],
    "phi3": ["heads of 8, which 16 does not divide"],  # a tiny one; real ones have 96
}
FAMILIES = sorted(
    {path.parent.name for path in (DATA / "families").glob("*/config.json")} - set(OTHERS)
)
ADAPTERS = [(base, name) for base, names in CASES.items() for name in names]


@pytest.fixture(scope="module", params=CASES)
def named(request):
    engine = open_engine(truth_base(request.param))
    yield request.param, engine
    engine.close()


@pytest.fixture(scope="module")
def engines():
    opened = {name: open_engine(truth_base(name)) for name in CASES}
    yield opened
    for engine in opened.values():
        engine.close()


def test_base_logits(named):
    name, engine = named
    truth = np.load(TRUTH / "bases" / name / "base_logits.npz")
    for index in range(3):
        found = logits_of(engine, truth[f"ids{index}"])
        np.testing.assert_allclose(found, truth[f"logits{index}"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("base", "name"), ADAPTERS)
def test_adapter_logits(engines, base, name):
    engine = engines[base]
    truth = np.load(TRUTH / "peft" / base / name / "logits.npz")
    handle = engine.attach(engine.prepare(truth_adapter(base, name)))
    for scale in (1.0, 0.5):
        for index in range(3):
            if (key := f"scale{scale:g}_{index}") not in truth:
                continue
            found = logits_of(engine, truth[f"ids{index}"], ((handle, scale),))
            # float32 noise: torch itself differs from this record by 1.06e-4 for llama/rslora
            np.testing.assert_allclose(found, truth[key], rtol=0, atol=1.2e-4)
    engine.detach(handle)


@pytest.mark.parametrize(
    ("base", "pair"),
    [
        ("gemma3", ("plain", "plain_b")),
        ("gemma3", ("rslora", "layers")),
        ("llama", ("plain", "embed_lmhead")),
        ("llama", ("bf16", "plain_b")),
    ],
)
def test_two_adapters_together_equal_the_merged_base(tmp_path, engines, base, pair):
    engine, ids = engines[base], np.arange(4, 40)
    adapters = [truth_adapter(base, name) for name in pair]
    handles = [engine.attach(engine.prepare(adapter)) for adapter in adapters]
    parts = list(zip(adapters, (0.7, -0.4), strict=True))
    merged = open_engine(merged_base(tmp_path / "merged", truth_base(base), parts))
    together = tuple(zip(handles, (0.7, -0.4), strict=True))
    np.testing.assert_allclose(
        logits_of(engine, ids, together), logits_of(merged, ids), rtol=0, atol=1e-4
    )
    merged.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_logits(family):
    """Qwen 2 and 3, Mistral's window, Llama's RoPE scalings, biases, soft-capped logits."""
    truth = np.load(DATA / "families" / family / "logits.npz")
    engine = open_engine(DATA / "families" / family)
    np.testing.assert_allclose(
        logits_of(engine, truth["ids"]), truth["logits"], rtol=2e-5, atol=2e-5
    )
    engine.close()


@pytest.mark.parametrize(("family", "why"), OTHERS.items())
def test_a_family_that_the_graph_does_not_compute_is_refused(family, why):
    with pytest.raises(CapabilityError, match=family) as caught:
        open_engine(DATA / "families" / family)
    assert caught.value.code == "capability_missing"
    assert list(caught.value.items) == why
    assert 'engine="torch"' in caught.value.hint


@pytest.mark.parametrize("family", FAMILIES)
def test_family_against_transformers(family):
    """The same on other tokens, computed now."""
    torch = pytest.importorskip("torch", reason="the live oracle needs torch and transformers")
    transformers = pytest.importorskip("transformers", reason="the live oracle needs transformers")
    folder = DATA / "families" / family
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    engine = open_engine(folder)
    ids = np.random.default_rng(1).integers(0, 96, 60)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits_of(engine, ids, chunk=17), expected, rtol=2e-5, atol=2e-5)
    engine.close()
