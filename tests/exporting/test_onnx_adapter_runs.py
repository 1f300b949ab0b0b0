"""The .onnx_adapter that lorakit writes, in onnxruntime's own LoRA: the adapter's logits."""

import numpy as np
import onnxruntime
import pytest
from optional_loras import with_optional_loras

import lorakit
from lorakit import demo
from lorakit.formats.convert import convert

IDS = np.array([[1, 30, 7, 300, 12, 99]])
HOME = demo.adapter_path("home")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The demo's base, and the names of what an adapter gives it."""
    place = tmp_path_factory.mktemp("runs")
    out = place / "base"
    lorakit.export(demo.base_path(), out, to="onnx", mode="dynamic", quantize="none")
    path = out / "onnx" / "optional.onnx"
    return path, with_optional_loras(out / "onnx" / "model.onnx", path)


def logits(path, adapter=None):
    session = onnxruntime.InferenceSession(path)
    feeds = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    for each in session.get_inputs():
        if each.name.startswith("past_key_values"):
            feeds[each.name] = np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
    options = onnxruntime.RunOptions()
    if adapter is not None:
        loaded = onnxruntime.LoraAdapter()
        loaded.Load(str(adapter))
        options.add_active_adapter(loaded)
    return session.run(["logits"], feeds, options)[0][0]


def test_it_gives_the_logits_that_it_has_in_lorakit(graph, tmp_path):
    path, names = graph
    adapter = tmp_path / "home.onnx_adapter"
    convert(HOME, adapter, to="ort")
    given = onnxruntime.AdapterFormat.read_adapter(str(adapter)).get_parameters()
    assert set(given) == set(names)
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(HOME, "home")
        for active, file in (({}, None), ({"home": 1.0}, adapter)):
            ours = model.logits(IDS[0].tolist(), adapters=active)
            np.testing.assert_allclose(logits(path, file), ours, rtol=0, atol=2e-4)
    effect = np.abs(logits(path, adapter) - logits(path)).max()
    assert effect > 1, "an adapter that does nothing would pass too"
