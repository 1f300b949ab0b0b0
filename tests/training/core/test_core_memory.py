"""Layers that are computed twice give the same bits, and are where memory asks for it."""

import pytest

pytest.importorskip("torch", reason="training needs the extra train")

import torch
from core_cases import base_of, model_of, ours, rows_of

from lorakit.errors import EngineError
from lorakit.training.core import memory
from lorakit.training.core.memory import Memory, torch_errors

BATCH = rows_of(20, [9, 14, 5])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return base_of("gemma3", tmp_path_factory.mktemp("bases"))


def saved(model, rows):
    """Bytes that autograd keeps for the way back."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.data_ptr(), t.nbytes) and t, lambda t: t
    ):
        model.loss(rows)
    return sum(kept.values())


def test_the_same_bits_from_less_memory(gemma):
    once, twice = (model_of(gemma, checkpointing=c) for c in (False, True))
    a, b = ours(once, BATCH), ours(twice, BATCH)
    assert a[0] == b[0]
    assert all(torch.equal(a[1][name], b[1][name]) for name in a[1])
    assert saved(twice, BATCH) < 0.5 * saved(once, BATCH)


def test_a_step_is_computed_again_with_its_own_scales_and_tokens(gemma):
    """Also after another step, of other rows, has begun."""
    companion = model_of(gemma, seed=1).adapter()
    model = model_of(gemma, companions={"c": companion}, checkpointing=True)
    truth = ours(model, BATCH, companions={"c": 0.5})
    loss, _ = model.loss(BATCH, {"c": 0.5})
    model.loss(BATCH[:2])
    loss.backward()
    assert all(torch.equal(p.grad, truth[1][name]) for name, p in model.state().items())
    other = ours(model, BATCH)
    assert not all(torch.equal(other[1][name], truth[1][name]) for name in other[1])


def test_memory_decides(gemma, monkeypatch):
    decoder = gemma.decoder
    twice = Memory(decoder, 4, CPU, None).needed(100, True)
    free = {"now": 0.9 * Memory(decoder, 4, CPU, None).needed(1000, False)}
    monkeypatch.setattr(memory, "available", lambda device: free["now"])
    chooses = Memory(decoder, 4, CPU, None)
    assert chooses.checkpoint(100) is False
    assert chooses.checkpoint(1000) is True
    free["now"] = 0.0  # all is in use by this very process, which will use it again
    assert chooses.checkpoint(100) is False
    with pytest.raises(EngineError, match="a step of 5000 tokens needs about") as caught:
        chooses.checkpoint(5000)
    assert caught.value.code == "out_of_memory"
    assert "lower the batch size" in caught.value.hint
    free["now"] = twice * 1.5
    assert Memory(decoder, 4, CPU, None).checkpoint(100) is True
    free["now"] = None  # the system does not say
    assert Memory(decoder, 4, CPU, None).checkpoint(10**9) is False


def test_errors_of_torch():
    with pytest.raises(EngineError) as caught, torch_errors("taking a step"):
        torch.empty(1 << 60)
    assert caught.value.code == "out_of_memory"
    for words in ("could not create a primitive", "could not create a memory object"):
        with pytest.raises(EngineError) as caught, torch_errors("taking a step"):
            raise RuntimeError(words)
        assert caught.value.code == "out_of_memory"
    failed = pytest.raises(EngineError, match="torch failed while taking a step")
    with failed as caught, torch_errors("taking a step"):
        torch.ones(2) @ torch.ones(3)
    assert caught.value.code == "engine_failed"
