"""A graph with lanes: what it has beside that of batches, and what stays as it is."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lorakit.base.folder import Base
from lorakit.engines.onnx.ort import open_session
from lorakit.graph import GraphOptions, MemoryStore, build, targets
from lorakit.graph.gains import extended
from lorakit.graph.packing import lane_of, packed

BASES = Path(__file__).parents[1] / "data/truth/bases"
LANES = 3


@pytest.fixture(params=["gemma3", "llama"])
def base(request):
    return Base.open(BASES / request.param)


def built(base, *, apart=False):
    store = MemoryStore()
    return build(base, GraphOptions(context=64, apart=apart), store), store


def test_inputs_of_lanes_may_be_left_out(base):
    model, store = built(base)
    session = open_session(packed(model, base, LANES), threads=1, initializers=store.arrays)
    plain = {each.name for each in onnx.load_from_string(model).graph.input}
    assert {each.name for each in session.get_inputs()} == plain
    layers = range(len(base.decoder.layers))
    own = {name for target in targets(base.decoder).values() for name in (target.a, target.b)}
    own |= {f"past.{index}.{part}" for index in layers for part in ("key", "value")}
    own |= {"busy", "lengths", "total"}
    expected = {lane_of(name, lane) for name in own for lane in range(LANES)}
    found = {each.name for each in session.get_overridable_initializers()}
    assert found == expected | {"packed", "segmented", "sizes"}


def feeds_of(session, base):
    """One row of five tokens, with noise in every factor."""
    d, found, rng = base.decoder, {}, np.random.default_rng(1)
    for each in session.get_inputs():
        shape = [size if isinstance(size, int) else 2 for size in each.shape]
        if ".lora_" in each.name:
            found[each.name] = rng.standard_normal([1, *shape[1:]]).astype(np.float32)
        elif each.name.startswith("past."):
            found[each.name] = np.zeros((1, d.kv_heads, 8, d.head_dim), np.float32)
        elif each.name.split(".")[-1] in ("gain", "shift", "scale"):
            found[each.name] = rng.standard_normal([1, *shape[1:]]).astype(np.float32)
    return found | {
        "hidden": rng.standard_normal((1, 5, d.hidden)).astype(np.float32),
        "lengths": np.array([4], np.int32),
        "total": np.array(5, np.int32),
        "keep": np.arange(5),
        "heads": np.arange(5),
    }


@pytest.mark.parametrize("extras", [(), ("gains", "norms")])
def test_a_batch_is_computed_as_before(base, extras):
    model, store = built(base)
    model = extended(model, base, extras) if extras else model
    before, after = (
        open_session(content, threads=1, initializers=store.arrays)
        for content in (model, packed(model, base, LANES))
    )
    fed, wanted = feeds_of(before, base), ["logits", "present.0.key", "present.1.value"]
    for one, other in zip(before.run(wanted, fed), after.run(wanted, fed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_stay_where_they_are(base):
    model, _ = built(base, apart=True)
    before, after = (onnx.load_from_string(m).graph for m in (model, packed(model, base, LANES)))
    held = {each.name: each.SerializeToString() for each in before.initializer}
    found = {each.name: each for each in after.initializer}
    assert held.items() <= {n: each.SerializeToString() for n, each in found.items()}.items()
    added = [each for name, each in found.items() if name not in held]
    assert not any(each.external_data for each in added)
    assert sum(each.ByteSize() for each in added) < 64 * len(added) + 2048
    assert packed(model, base, LANES) == packed(model, base, LANES)


def test_linears_that_read_the_same_are_cut_once(base):
    model, _ = built(base)
    graph = onnx.load_from_string(packed(model, base, LANES)).graph
    branches = [node for node in graph.node if node.op_type == "If"]
    assert len(branches) == 5 * len(base.decoder.layers)  # attention, and four inputs of linears
    assert not any(node.op_type == "GroupQueryAttention" for node in graph.node)
