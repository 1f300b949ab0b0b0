"""What a graph says of its head, so that the host can multiply by rows of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lorakit.base.folder import Base
from lorakit.engines.onnx.few_rows import Blockwise
from lorakit.graph import GraphOptions, HeadForm, MemoryStore, build
from lorakit.graph.blockwise import packed8
from lorakit.graph.even import Seen
from lorakit.graph.quantize import EVEN, FORMS

BASE = Path(__file__).parents[1] / "data" / "truth" / "bases" / "gemma3"
DIVISORS = np.random.default_rng(0).standard_normal(64).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_says_how_it_multiplies(form):
    options, base = GraphOptions(head=form, context=16), Base.open(BASE)
    model = build(base, options, MemoryStore(), lambda _: Seen(np.abs(DIVISORS)))
    said = {each.key: each.value for each in onnx.ModelProto.FromString(model).metadata_props}
    found = HeadForm.of(said)
    assert found.name == form
    assert (found.divisors is not None) == (form in EVEN)
    if found.divisors is not None:
        np.testing.assert_array_equal(found.divisors, np.abs(DIVISORS))
    assert found.narrow == form.startswith("block")


@pytest.mark.parametrize("divisors", [None, DIVISORS, np.float32([1e-38, 3e38, 1 / 3])])
def test_divisors_come_back_to_the_bit(divisors):
    found = HeadForm.of(HeadForm(name="rowwise8", divisors=divisors, narrow=True).metadata())
    assert found.narrow
    if divisors is None:
        assert found.divisors is None
    else:
        assert found.divisors.tobytes() == divisors.tobytes()
        assert found.divisors.dtype == np.float32


def test_scales_of_some_blocks_are_as_wide_as_those_of_all():
    """One tiny row makes the scales of all float32, also of those that float16 would hold."""
    weight = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    weight[3] *= 1e-6
    whole = packed8(weight, 32)
    assert whole.scales.dtype == np.float32
    for narrow, same in ((False, True), (True, False)):
        values, scales = Blockwise(32, narrow).stored(weight[:3])
        assert np.array_equal(scales, whole.scales[:3]) == same
    np.testing.assert_array_equal(
        Blockwise(32, False).stored(weight[:3])[0].reshape(3, 2, 32) + 128, whole.codes[:3]
    )
    assert values.shape == (3, 64)
