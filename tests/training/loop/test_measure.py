"""DoRA and trained rows are measured on onnx as on torch."""

from dataclasses import replace

import numpy as np
import pytest
from train_cases import (
    BASE,
    FORTY,
    few_requests_and_plain_numbers,
    run,
)

import lorakit
from lorakit import demo
from lorakit.errors import EngineError
from lorakit.training import measure
from lorakit.training.data import Example
from lorakit.training.measure import Measurer

WORDS = "the lights in the kitchen are on and the timer runs for another ten minutes"
TEXTS = [Example(task="completion", place=f"t:{i}", prompt=f"{i} is ", text=WORDS) for i in (1, 2)]
SPECS = {"dora": {"dora": True}, "tokens": {"tokens": (20, 21)}}
SCALE = 0.7


@pytest.fixture(scope="module", params=SPECS)
def trained(request, tmp_path_factory):
    """An adapter whose magnitudes or rows matter."""
    patch = pytest.MonkeyPatch()
    few_requests_and_plain_numbers.__wrapped__(patch)
    folder = tmp_path_factory.mktemp("measured")
    adapter = run(folder / "a", steps=2, rate=0.01, **SPECS[request.param]).adapter
    patch.undo()
    return replace(
        adapter,
        magnitudes=tuple(replace(m, value=m.value * np.float32(1.1)) for m in adapter.magnitudes),
        replacements=tuple(replace(r, value=r.value * np.float32(3)) for r in adapter.replacements),
    )


@pytest.fixture(scope="module")
def expected(trained):
    return measured(trained, "torch")


def measured(adapter, engine):
    """(the answers' losses, what is generated) beside a companion, at a scale."""
    style = lorakit.read_adapter(demo.adapter_path("style"))
    with Measurer(lorakit.Base.open(BASE), {"style": style}, engine=engine) as measurer:
        texts, calls = (
            measurer.evaluate(examples, adapter, companion="style", scale=SCALE)
            for examples in (TEXTS, FORTY[:1])
        )
    return [each.loss for each in texts.outcomes], [each.text for each in calls.outcomes]


def test_it_is_measured_as_torch_does(trained, expected):
    losses, texts = measured(trained, "onnx")
    assert losses == pytest.approx(expected[0], rel=1e-4)
    assert texts == expected[1]


def test_an_adapter_without_its_magnitudes_or_rows_is_seen(trained, expected):
    """The broken variant: its deltas alone."""
    bare = replace(trained, magnitudes=(), replacements=())
    losses, _ = measured(bare, "onnx")
    assert losses != pytest.approx(expected[0], rel=1e-3)


def test_an_adapter_that_is_none_any_more(trained):
    spoilt = replace(trained.deltas[0], b=trained.deltas[0].b * np.float32(np.nan))
    none = replace(trained, deltas=(spoilt, *trained.deltas[1:]))
    with pytest.raises(EngineError, match=measure.NOT_FINITE):
        measured(none, "onnx")
