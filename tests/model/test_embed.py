"""Embeddings: the last hidden states, the same whichever engine computes them."""

from pathlib import Path

import numpy as np
import pytest

import lorakit
from llama_library import need_llama
from lorakit.errors import ContextFullError, ParameterError

TRUTH = Path(__file__).parents[1] / "data" / "truth"


@pytest.fixture(scope="module")
def model():
    with lorakit.open(TRUTH / "bases" / "llama", threads=1) as model:
        model.load_adapter(TRUTH / "peft" / "llama" / "plain")
        model.load_adapter(TRUTH / "peft" / "llama" / "alora")
        yield model


def reference(ids, adapter=None):
    """transformers' own last hidden states."""
    torch = pytest.importorskip("torch", reason="compared with transformers")
    transformers = pytest.importorskip("transformers", reason="compared with transformers")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        TRUTH / "bases" / "llama", dtype=torch.float32, attn_implementation="eager"
    )
    if adapter:
        peft = pytest.importorskip("peft", reason="compared with PEFT")
        base = peft.PeftModel.from_pretrained(base, TRUTH / "peft" / "llama" / adapter)
    with torch.inference_mode():
        found = base(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return found.hidden_states[-1][0].numpy()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's use of transformers
@pytest.mark.parametrize("adapter", [None, "plain"])
def test_they_are_those_of_transformers(model, adapter):
    ids = list(range(5, 40))
    states = reference(ids, adapter)
    chosen = {adapter: 1.0} if adapter else {}
    mean = model.embed(ids, adapters=chosen, normalize=False)
    np.testing.assert_allclose(mean, states.mean(axis=0), atol=2e-5)
    last = model.embed(ids, adapters=chosen, pooling="last", normalize=False)
    np.testing.assert_allclose(last, states[-1], atol=5e-5)
    assert abs(np.linalg.norm(model.embed(ids, adapters=chosen)) - 1.0) < 1e-6


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_other_engines_give_the_same(model, engine):
    base = TRUTH / "bases" / "llama"
    if engine == "llama":
        need_llama()
        base = TRUTH / "gguf" / "llama.base.f32.gguf"
    else:
        pytest.importorskip("transformers", reason="the torch engine needs lorakit[torch]")
    ids = [*range(5, 25), 10, 11, 30, 31]  # with the invocation of `alora`
    with lorakit.open(base, engine=engine, threads=1) as other:
        other.load_adapter(TRUTH / "peft" / "llama" / "plain")
        other.load_adapter(TRUTH / "peft" / "llama" / "alora")
        for chosen in ({}, {"plain": 0.5}, {"alora": 1.0}, {"plain": 1.0, "alora": -1.0}):
            one, two = (m.embed(ids, adapters=chosen) for m in (model, other))
            np.testing.assert_allclose(one, two, atol=1e-5)


def test_refusals(model):
    with pytest.raises(ParameterError, match="pooling"):
        model.embed("hello", pooling="max")
    with pytest.raises(ParameterError, match="no tokens"):
        model.embed([])
    with pytest.raises(ContextFullError):
        model.embed([5] * 300)


def test_several_texts_are_several_calls(model):
    with pytest.raises(ParameterError, match="found a list of texts") as error:
        model.embed(["one", "two"])
    assert error.value.hint.startswith("one call for each")
    assert model.embed([1, 2]).shape == model.embed("one").shape
