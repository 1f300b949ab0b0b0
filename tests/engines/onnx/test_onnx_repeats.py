"""Forms that round to codes: the same request gives the same bits, alone and whoever shares its
adapter, since a code may flip with the last bit of what it is made from."""

import numpy as np
import pytest

from lorakit import demo
from lorakit.base.folder import Base
from lorakit.engines.onnx.lora_inputs import Slab
from lorakit.engines.onnx.together import rank_of
from lorakit.graph.lora import LoraTarget
from onnx_cases import open_engine, random_adapter, row, truth_base

PROMPT = np.arange(4, 24)
FORMS = ("int8", "int4")
RANKS = (1, 3, 4, 7, 16, 40)


def answer(engine, sets, steps=6):
    """Logits of a row's steps, which decodes beside others under these sets; it is the first."""
    sequences = [engine.open_sequence() for _ in sets]
    found = [engine.forward([row(sequences[0], PROMPT, sets[0], "last")])[0][-1].copy()]
    for index, sequence in enumerate(sequences[1:], 1):
        engine.forward([row(sequence, PROMPT[: 3 + index], sets[index], "none")])
    for step in range(steps):
        mates = [(np.arange(len(sequences) - 1) * 31 + step) % 500]
        tokens = [int(found[-1].argmax()), *(int(token) for token in mates[0])]
        rows = [row(s, [t], held) for s, t, held in zip(sequences, tokens, sets, strict=True)]
        found.append(engine.forward(rows)[0][-1].copy())
    for sequence in sequences:
        engine.close_sequence(sequence)
    return np.array(found)


@pytest.mark.parametrize("quantize", FORMS)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_rows_that_share_an_adapter_are_as_alone(name, quantize):
    engine = open_engine(truth_base(name), quantize=quantize)
    assert not differing(engine, name)
    engine.close()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_as_one_product_they_would_not_be(name, cache, monkeypatch):
    bound = LoraTarget.bound
    monkeypatch.setattr(
        LoraTarget, "bound", lambda self, a, b, *, shared: bound(self, a, b, shared=False)
    )
    engine = open_engine(truth_base(name), quantize="int8")
    assert differing(engine, name)
    engine.close()


def differing(engine, name):
    """(rank, rows) for which a row is not what it is alone."""
    base, found = Base.open(truth_base(name)), []
    for rank in RANKS:
        handle = engine.attach(engine.prepare(random_adapter(base, rank, rank)))
        held = ((handle, 1.0),)
        alone = answer(engine, [held])
        found += [
            (rank, rows)
            for rows in (2, 3, 8)
            if not np.array_equal(answer(engine, [held] * rows), alone)
        ]
        engine.detach(handle)
    return found


def test_a_mate_of_a_larger_rank_alters_nothing():
    assert not altered()


def test_without_ranks_in_steps_it_would(cache, monkeypatch):
    monkeypatch.setattr(LoraTarget, "padded", lambda _, rank: rank)
    assert altered()


def altered():
    """Ranks whose answers a mate of rank 12 alters: zeros stand behind theirs then."""
    base = Base.open(truth_base("llama"))
    engine = open_engine(truth_base("llama"), quantize="int8")
    mate = engine.attach(engine.prepare(random_adapter(base, 0, 12)))
    found = []
    for rank in range(1, 12):
        handle = engine.attach(engine.prepare(random_adapter(base, rank, rank)))
        held = ((handle, 1.0),)
        alone = answer(engine, [held])
        if not np.array_equal(answer(engine, [held, ((mate, 1.0),)]), alone):
            found.append(rank)
    engine.close()
    return found


@pytest.mark.parametrize("quantize", FORMS)
def test_an_adapter_used_before_alters_nothing(quantize):
    engine = open_engine(demo.base_path(), quantize=quantize)
    assert not altered_by_one_before(engine)
    engine.close()


def test_in_a_slab_of_another_rank_it_would(monkeypatch):
    engine = open_engine(demo.base_path(), quantize="int4")
    monkeypatch.setattr(Slab, "_fit", as_it_fits(Slab._fit))
    assert altered_by_one_before(engine)
    engine.close()


def as_it_fits(fit):
    """Slab._fit where wider arrays do, as they do for float32."""

    def fitted(self, rows, sets, attached):
        sum_of = {m: rank_of(m, sets[0], attached) for m in self.arrays}
        if not sum_of or any(a.shape[2] < sum_of[m] for m, (a, _) in self.arrays.items()):
            fit(self, rows, sets, attached)

    return fitted


def altered_by_one_before(engine):
    """Whether an answer of rank 64 is another where rank 128 was in the same slab before."""
    base = Base.open(demo.base_path())
    one, it, wide = (
        ((engine.attach(engine.prepare(random_adapter(base, rank, rank))), 1.0),)
        for rank in (1, 64, 128)
    )
    answer(engine, [one], 0)
    expected = answer(engine, [it], 0)
    for held in (wide, one):
        answer(engine, [held], 0)
    return not np.array_equal(answer(engine, [it], 0), expected)


def test_adapters_of_float32_are_one_product():
    """Which is faster, and nothing is rounded to codes there."""
    engine = open_engine(truth_base("llama"))
    base = Base.open(truth_base("llama"))
    handle = engine.attach(engine.prepare(random_adapter(base, 0, 3)))
    engine.forward([row(engine.open_sequence(), PROMPT, ((handle, 1.0),), "none")])
    inputs = {tensor.name: tensor.shape for tensor in engine._session.get_inputs()}
    assert {len(shape) for name, shape in inputs.items() if ".lora_" in name} == {3}
    engine.close()
