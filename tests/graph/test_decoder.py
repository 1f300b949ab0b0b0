"""What a built graph looks like from outside: its inputs and outputs, and where its weights are."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lorakit.base.folder import Base
from lorakit.graph import HEAD, FileStore, GraphOptions, MemoryStore, build, targets
from lorakit.graph.weights import ALIGNMENT, WEIGHTS_FILE

BASES = Path(__file__).parents[1] / "data" / "truth" / "bases"


@pytest.fixture(params=["gemma3", "llama"])
def base(request):
    return Base.open(BASES / request.param)


def test_inputs_and_outputs(base):
    graph = onnx.load_from_string(build(base, GraphOptions(), MemoryStore())).graph
    layers = range(len(base.decoder.layers))
    cache = {f"{index}.{part}" for index in layers for part in ("key", "value")}
    lora = {name for target in targets(base.decoder).values() for name in (target.a, target.b)}
    assert {i.name for i in graph.input} == {
        *("hidden", "lengths", "total", "keep"),
        *(f"past.{name}" for name in cache),
        *lora,
    }
    assert {o.name for o in graph.output} == {
        *("logits", "final"),
        *(f"present.{name}" for name in cache),
    }
    assert len(lora) == 2 * 7 * len(base.decoder.layers)
    assert not any(name.startswith(HEAD) for name in lora)


def test_weights_are_in_one_aligned_file_and_once(base, tmp_path):
    store = FileStore(tmp_path)
    model = onnx.load_from_string(build(base, GraphOptions(context=16), store))
    store.close()
    external = [t for t in model.graph.initializer if t.external_data]
    places = {t.name: {e.key: e.value for e in t.external_data} for t in external}
    assert {place["location"] for place in places.values()} == {WEIGHTS_FILE}
    assert all(int(place["offset"]) % ALIGNMENT == 0 for place in places.values())
    length = sum(int(place["length"]) for place in places.values())
    linears = [s for s in base.decoder.modules().values() if not s.embedding]
    expected = sum(4 * s.in_features * s.out_features for s in linears)  # the head is one of them
    assert expected <= length < 1.1 * expected
    first = places["lm_head.weight"]
    raw = (tmp_path / WEIGHTS_FILE).read_bytes()[int(first["offset"]) :][: int(first["length"])]
    stored = np.frombuffer(raw, np.float32).reshape(base.decoder.hidden, -1)
    np.testing.assert_array_equal(stored.T, base.tensor("lm_head.weight"))


def test_building_twice_gives_the_same_bytes(base, tmp_path):
    models = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store = FileStore(tmp_path / name)
        models.append(build(base, GraphOptions(linear="rowwise8", head="rowwise8"), store))
        store.close()
    assert models[0] == models[1]
    one, two = ((tmp_path / name / WEIGHTS_FILE).read_bytes() for name in ("one", "two"))
    assert one == two
