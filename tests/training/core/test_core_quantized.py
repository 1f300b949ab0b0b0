"""Training over a base in four bits: exact for the weights that those bits stand for."""

import sys
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="training needs the extra train")

import torch
from core_cases import PLAIN, apart, base_of, model_of, ours, rows_of

from lorakit.errors import MissingExtraError
from lorakit.training.core.model import load_model
from lorakit.training.core.spec import LoraSpec

BATCH = rows_of(20, [9, 14, 5])


@pytest.fixture
def sixteenths(monkeypatch):
    """A stand-in with the two functions of bitsandbytes: rounds to sixteenths."""
    package, module = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.functional")
    module.quantize_4bit = lambda weight, quant_type, compress_statistics: (
        (weight * 16).round().to(torch.int8),
        weight.dtype,
    )
    module.dequantize_4bit = lambda packed, dtype: packed.to(dtype) / 16
    package.functional = module
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", module)


def dense(model):
    """The same model over weights that were quantised and made dense again."""
    for module in model._built.model.modules():
        if hasattr(module, "frozen"):
            module.frozen._weight = (module.frozen.dense() * 16).round() / 16
    return model


@pytest.mark.parametrize("spec", [LoraSpec(rank=4), LoraSpec(rank=4, dora=True)])
@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_gradients_over_four_bits(tmp_path, sixteenths, family, spec):
    base = base_of(family, tmp_path)
    found = model_of(base, spec, quantize="nf4")
    truth = dense(model_of(base, spec))
    truth.restore(found.state())  # DoRA's magnitudes begin at the norms of the weights
    truth = ours(truth, BATCH)
    assert apart(ours(found, BATCH), truth) < 1e-5
    plain = model_of(base, spec)
    plain.restore(found.state())
    assert apart(ours(plain, BATCH), truth) > 1e-3


def test_without_bitsandbytes(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="needs bitsandbytes") as caught:
        load_model(base_of("llama", tmp_path), LoraSpec(), numerics=PLAIN, quantize="nf4")
    assert caught.value.hint == "pip install bitsandbytes"
