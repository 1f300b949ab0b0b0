"""Relative strength: ||scale * B @ A||_F beside ||W||_F, per module and of all."""

import math
from dataclasses import replace

import numpy as np
import pytest

from folders import DATA
from lorakit import Base, demo, read_adapter
from lorakit.adapter import at_scale
from lorakit.inspect.report import inspect

BASES = {
    "llama": ("truth/bases/llama", "truth/peft/llama/plain"),
    "tied, embeddings": ("truth/bases/gemma3", "truth/peft/gemma3/embed_tied"),
    "experts": ("recorded/bases/qwen3_moe", "recorded/peft/qwen3_moe/experts"),
    "Conv1D": ("recorded/bases/gpt2", "recorded/peft/gpt2/conv1d"),
}


def opened(name):
    base, adapter = BASES[name]
    return Base.open(DATA / base), read_adapter(DATA / adapter, Base.open(DATA / base).decoder)


@pytest.mark.parametrize("name", [*BASES])
def test_of_every_module_and_of_all(name):
    base, adapter = opened(name)
    report = inspect(adapter, values=True, base=base)
    deltas, weights = [], []
    for delta, row in zip(adapter.deltas, report.modules, strict=True):
        change = delta.scale * delta.b.astype(np.float64) @ delta.a.astype(np.float64)
        deltas.append(np.linalg.norm(change))
        weights.append(np.linalg.norm(base.weight(delta.module).astype(np.float64)))
        assert row.relative_norm == pytest.approx(deltas[-1] / weights[-1], rel=1e-6)
    assert report.relative_norm == pytest.approx(math.hypot(*deltas) / math.hypot(*weights))
    mean = np.mean([row.relative_norm for row in report.modules])
    assert report.relative_norm != pytest.approx(mean, rel=1e-6)  # which it is not


def test_a_scale_acts_on_it_and_the_size_of_the_base_too():
    base, adapter = opened("llama")
    full = inspect(adapter, values=True, base=base).relative_norm
    assert inspect(at_scale(adapter, 1.0), values=True, base=base).relative_norm == pytest.approx(
        full / 2
    )
    doubled = {name: tensor * 2 for name, tensor in base.tensors.items()}
    doubled_base = replace(base, tensors=doubled)
    assert inspect(adapter, values=True, base=doubled_base).relative_norm == pytest.approx(full / 2)


def test_none_without_values_without_a_base_and_of_another_one():
    base, adapter = opened("llama")
    other = Base.open(demo.base_path())
    reports = (
        inspect(adapter, values=True),
        inspect(adapter, base=base),
        inspect(adapter, values=True, base=other),
        inspect(adapter, values=True, base=replace(base, _stored={})),  # as a GGUF file is opened
    )
    for report in reports:
        assert report.relative_norm is None
        assert {row.relative_norm for row in report.modules} == {None}
    zero = replace(base, tensors={name: tensor * 0 for name, tensor in base.tensors.items()})
    assert inspect(adapter, values=True, base=zero).relative_norm is None  # beside nothing
