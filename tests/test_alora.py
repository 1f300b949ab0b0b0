"""Adapters with invocation tokens, on every engine, against the logits that PEFT recorded."""

from pathlib import Path

import numpy as np
import pytest

import lorakit
from llama_library import need_llama

TRUTH = Path(__file__).parent / "data" / "truth"
ADAPTER = TRUTH / "peft" / "llama" / "alora"


@pytest.fixture(params=["onnx", "torch", "llama", "export"])
def model(request, tmp_path):
    base, engine = TRUTH / "bases" / "llama", request.param
    if request.param == "torch":
        pytest.importorskip("transformers", reason="the torch engine needs lorakit[torch]")
    if request.param == "llama":
        need_llama()
        base = TRUTH / "gguf" / "llama.base.f32.gguf"
    if engine == "export":
        result = lorakit.export(
            base, tmp_path / "export", mode="dynamic", quantize="none", prove_it=False
        )
        base, engine = result.output, "onnx"
    with lorakit.open(base, engine=engine, threads=1) as model:
        model.load_adapter(ADAPTER, "late")
        yield model


def test_it_acts_from_its_invocation_on(model):
    with np.load(ADAPTER / "logits.npz") as truth:
        for i in range(3):
            found = model.logits(truth[f"ids{i}"].tolist(), adapters={"late": 1.0})
            assert np.abs(found - truth[f"scale1_{i}"]).max() < 2e-4


def test_what_comes_before_is_shared_with_the_base(model):
    prompt = list(range(20, 50))
    model.complete(prompt, max_tokens=2, ignore_eos=True, adapters={})
    invoked = [*prompt, 10, 11, 60, 61]
    warm = model.complete(invoked, max_tokens=4, ignore_eos=True, adapters={"late": 1.0})
    assert warm.cached_tokens == len(prompt)
    assert warm.adapters == (("late", 1.0),)
    never = model.complete(prompt[:10], max_tokens=1, ignore_eos=True, adapters={"late": 1.0})
    assert never.adapters == ()
