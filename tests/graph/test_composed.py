"""Adapters as weights of a graph: rows choose theirs, as each alone would be; 0 is the base."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from lorakit.adapter import Adapter, Delta, Site
from lorakit.errors import FormatError, ParameterError, UnsupportedError
from lorakit.graph.composed import MAX_COMPOSED, SELECTOR, Composed, require_composable
from lorakit.graph.weights import MemoryStore
from lorakit.graph.writer import Writer

RNG = np.random.default_rng(5)
MODULES = {"q": (6, 5), "k": (6, 3)}


def delta(module, rank, scale=1.0, **more):
    n_in, n_out = MODULES.get(module, (6, 6))
    a = RNG.standard_normal((rank, n_in)).astype(np.float32)
    b = RNG.standard_normal((n_out, rank)).astype(np.float32)
    return Delta(module=module, a=a, b=b, scale=scale, **more)


ADAPTERS = [
    (Adapter(deltas=(delta("q", 2, 0.5), delta("k", 1))), 1.0),
    (Adapter(deltas=(delta("q", 4),)), -0.7),
    (Adapter(deltas=(delta("k", 3, 2.0),)), 1.0),
]


def run(adapters, x, rows=None, dtype=np.float32):
    """x through both modules of a graph whose base gives zeros."""
    writer = Writer(MemoryStore())
    kind = TensorProto.FLOAT if dtype is np.float32 else TensorProto.FLOAT16
    writer.input("x", ["batch_size", "n", 6], kind)
    adapt = Composed(writer=writer, adapters=adapters, dtype=dtype, chosen=rows is not None)
    for module, (n_in, n_out) in MODULES.items():
        weight = writer.weight(f"{module}.zeros", np.zeros((n_in, n_out), dtype))
        y = adapt(module, "x", writer.node("MatMul", ["x", weight], f"{module}.xW"))
        writer.node("Identity", [y], writer.output(f"{module}.y", ["b", "n", n_out], kind))
    session = onnxruntime.InferenceSession(writer.finish())
    feeds = {"x": x.astype(dtype)}
    if rows is not None:
        feeds[SELECTOR] = np.array(rows, np.int64)
    return dict(zip(MODULES, session.run(None, feeds), strict=True))


def wanted(adapter, scale, x, module):
    found = {d.module: d for d in adapter.deltas}.get(module)
    if found is None:
        return np.zeros((*x.shape[:-1], MODULES[module][1]))
    return scale * found.scale * (x.astype("f8") @ found.a.T.astype("f8") @ found.b.T.astype("f8"))


def test_each_row_has_its_own_adapter_and_0_is_the_base():
    x = RNG.standard_normal((5, 3, 6))
    rows = [2, 0, 1, 3, 2]
    found = run(ADAPTERS, x, rows)
    for module in MODULES:
        for place, row in enumerate(rows):
            mine = x[place].astype(np.float32)
            expected = wanted(*ADAPTERS[row - 1], mine, module) if row else 0 * found[module][place]
            np.testing.assert_allclose(found[module][place], expected, atol=1e-5)
            alone = run(ADAPTERS, x[place : place + 1], [row])
            np.testing.assert_allclose(found[module][place], alone[module][0], atol=1e-6)


def test_an_order_of_adapters_that_is_another_would_be_found():
    x = RNG.standard_normal((1, 3, 6))
    right, wrong = run(ADAPTERS, x, [1]), run(ADAPTERS[::-1], x, [1])
    assert np.abs(right["q"] - wrong["q"]).max() > 0.1


def test_a_single_adapter_needs_no_input():
    x = RNG.standard_normal((2, 3, 6))
    found = run(ADAPTERS[1:2], x)
    np.testing.assert_allclose(
        found["q"], wanted(*ADAPTERS[1], x.astype(np.float32), "q"), atol=1e-5
    )
    assert not found["k"].any()
    with pytest.raises(ParameterError, match="chooses"):
        run(ADAPTERS[:2], x)


def test_float16_holds_what_it_can_and_refuses_the_rest():
    x = RNG.standard_normal((1, 3, 6))
    found = run(ADAPTERS, x, [1], np.float16)
    np.testing.assert_allclose(found["q"][0], wanted(*ADAPTERS[0], x[0], "q"), atol=0.02)
    with pytest.raises(FormatError, match="too large for float16"):
        run([(Adapter(deltas=(delta("q", 1, 1e6),)), 1.0)], x, [1], np.float16)


def test_more_than_16_and_what_a_graph_cannot_say_are_refused():
    one = ADAPTERS[0]
    require_composable([one] * MAX_COMPOSED)
    for many in ([], [one] * (MAX_COMPOSED + 1)):
        with pytest.raises(ParameterError, match="1 to 16"):
            require_composable(many)
    table = Adapter(deltas=(delta("table", 1, site=Site.INPUT),))
    with pytest.raises(UnsupportedError, match="composed graph"):
        require_composable([one, (table, 1.0)])
