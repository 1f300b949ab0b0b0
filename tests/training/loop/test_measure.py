"""What onnx cannot load is measured in a base of its own, as torch measures it unmerged."""

import tempfile
from dataclasses import replace
from pathlib import Path

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
from lorakit.engines.onnx import graph_cache
from lorakit.errors import EngineError
from lorakit.files.cache import cache_root
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


def folders():
    spare = {path.name for path in Path(tempfile.gettempdir()).glob("lorakit-*")}
    return spare | {path.name for path in (cache_root() / "graphs").glob("*")}


def test_it_is_measured_as_torch_does(trained, expected):
    measured(None, "onnx")
    before = folders()
    losses, texts = measured(trained, "onnx")
    assert folders() == before
    assert losses == pytest.approx(expected[0], rel=1e-4)
    assert texts == expected[1]


def test_a_base_without_what_cannot_be_loaded_is_seen(trained, expected):
    """The broken variant: what onnx would apply of it."""
    bare = replace(trained, magnitudes=(), replacements=())
    losses, _ = measured(bare, "onnx")
    assert losses != pytest.approx(expected[0], rel=1e-3)


def test_a_graph_that_is_left_is_seen(trained, monkeypatch):
    monkeypatch.setattr(graph_cache, "forget_graphs", lambda base: None)
    before = folders()
    measured(replace(trained, deltas=tuple(replace(d, scale=0.5) for d in trained.deltas)), "onnx")
    assert folders() != before


def test_an_adapter_that_is_none_any_more(trained):
    spoilt = replace(trained.deltas[0], b=trained.deltas[0].b * np.float32(np.nan))
    for magnitudes in (trained.magnitudes, ()):  # merged and loaded
        none = replace(trained, deltas=(spoilt, *trained.deltas[1:]), magnitudes=magnitudes)
        with pytest.raises(EngineError, match=measure.NOT_FINITE):
            measured(none, "onnx")
