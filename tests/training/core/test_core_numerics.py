"""What a machine computes with is tried once, and remembered; what is wrong is never chosen."""

import pytest

pytest.importorskip("torch", reason="training needs the extra train")

import torch
from core_cases import PLAIN, Row, base_of, model_of

from lorakit.errors import CapabilityError
from lorakit.training.core import numerics
from lorakit.training.core.frozen import OneDnn, Plain
from lorakit.training.core.loss import CrossEntropy, Head
from lorakit.training.core.numerics import Numerics, choose

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return base_of("gemma3", tmp_path_factory.mktemp("bases")).decoder


@pytest.mark.parametrize(
    ("tried", "dtype", "chosen"),
    [
        ((True, 1.0, 0.9), "auto", Numerics(dtype="float32", onednn=True)),
        ((True, 1.0, 0.5), "auto", Numerics(dtype="bfloat16")),
        ((True, 1.0, 0.5), "float32", Numerics(dtype="float32", onednn=True)),
        ((False, 1.0, 0.9), "auto", Numerics(dtype="float32")),
        ((False, 1.0, 0.9), "bfloat16", Numerics(dtype="bfloat16")),
    ],
)
def test_the_faster_is_chosen_and_remembered(cache, decoder, monkeypatch, tried, dtype, chosen):
    monkeypatch.setattr(numerics, "_trial", lambda inputs, outputs: tried)
    assert choose(decoder, CPU, dtype) == chosen
    other = (not tried[0], 1.0, 0.95 if tried[2] < 0.8 else 0.1)  # a busy machine, later
    monkeypatch.setattr(numerics, "_trial", lambda inputs, outputs: other)
    assert choose(decoder, CPU, dtype) == chosen


def test_what_is_wrong_or_gone_is_not_chosen(monkeypatch):
    """Even if it took no time."""
    monkeypatch.setattr(numerics, "_seconds", lambda product: 1.0)

    def gone(x, weight):
        raise AttributeError("_linear_pointwise")

    for broken in (gone, lambda x, weight: x @ weight.t() * 1.01):
        monkeypatch.setattr(numerics, "onednn_linear", broken)
        assert not numerics._trial(16, 32)[0]
    monkeypatch.setattr(numerics, "onednn_linear", lambda x, weight: x @ weight.t())
    monkeypatch.setattr(numerics, "_seconds", _falling())
    assert numerics._trial(16, 32) == (True, 0.5, 0.5)


def _falling():
    seconds = iter([1.0, 0.5, 0.5])
    return lambda product: next(seconds)


def test_ways_to_multiply():
    assert Numerics(dtype="float32", onednn=True).multiply is OneDnn
    assert PLAIN.multiply is Plain


def test_a_gpu_chooses_by_what_it_has(decoder, monkeypatch):
    gpu = torch.device("cuda")
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able: able)
        assert choose(decoder, gpu) == Numerics(dtype="bfloat16" if able else "float32")
        assert choose(decoder, gpu, "float32") == PLAIN
    with pytest.raises(CapabilityError, match="no bfloat16"):
        choose(decoder, gpu, "bfloat16")
    assert choose(decoder, torch.device("mps")) == PLAIN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_near_nothing_is_not_below_it(dtype):
    """The label's score comes from the product that the others come from."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(5000, 64, generator=draw).to(dtype)
    labels = torch.randint(5000, (300,), generator=draw)
    states = (weight[labels].float() * 0.7).to(dtype)
    head = Head(weight=weight, multiply=Plain)
    loss = CrossEntropy.apply(states, None, labels, head)
    assert 0 <= loss.item() < 1e-3
    exact = (states.float() * weight[labels].float()).sum(1)
    rounded = (states @ weight.t()).float().logsumexp(1)
    assert dtype == torch.float32 or (rounded - exact).min() < -0.01  # what it would be else


def test_a_batch_in_bfloat16_has_masters_in_float32(tmp_path):
    model = model_of(base_of("llama", tmp_path), numerics=Numerics(dtype="bfloat16"))
    loss, count = model.loss([Row((5, 6, 7), (False, True, True))])
    loss.backward()
    assert (loss.dtype, count) == (torch.float32, 2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
