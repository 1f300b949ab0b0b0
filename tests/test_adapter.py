"""The Adapter value: what it refuses, what makes two equal, what it says of itself."""

import copy
import hashlib
import pickle
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lorakit.adapter import Adapter, Delta, Magnitude, Precondition, Replacement, Site, in_order
from lorakit.errors import AdapterError

RNG = np.random.default_rng(3)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def delta(module="q_proj", rank=2, dtype=np.float32, scale=1.0, **more):
    a = RNG.standard_normal((rank, 5)).astype(dtype)
    b = RNG.standard_normal((3, rank)).astype(dtype)
    return Delta(module=module, a=a, b=b, scale=scale, **more)


@pytest.mark.parametrize(
    ("a", "b", "scale", "said"),
    [
        ((2, 5), (3, 4), 1.0, "rank"),
        ((5,), (3, 2), 1.0, "2-D"),
        ((2, 2, 5), (3, 2), 1.0, "2-D"),
        ((2, 2, 5), (3, 3, 2), 1.0, "rank"),
        ((2, 5), (3, 2), float("nan"), "finite"),
        ((2, 5), (3, 2), 1e300, "finite"),
    ],
)
def test_a_delta_that_cannot_be_is_refused_by_name(a, b, scale, said):
    with pytest.raises(AdapterError, match=f"q_proj.*{said}"):
        Delta(module="q_proj", a=np.ones(a), b=np.ones(b), scale=scale)


def test_a_delta_knows_its_shape():
    d = Delta(module="m", a=np.ones((4, 2, 5)), b=np.ones((4, 3, 2)), scale=1)
    assert (d.rank, d.in_features, d.out_features) == (2, 5, 3)
    with pytest.raises(AdapterError, match=r"bias of B must be \[3\]"):
        delta(bias=np.ones(5))


@pytest.mark.parametrize(
    ("rows", "shape"), [([3, 2], (2, 4)), ([1, 1], (2, 4)), ([1], (2, 4)), ([1.0], (1, 4))]
)
def test_replaced_rows_need_one_increasing_id_each(rows, shape):
    with pytest.raises(AdapterError, match="embed"):
        Replacement(name="embed.weight", value=np.ones(shape), rows=np.array(rows))


def test_parts_that_claim_the_same_are_refused_all_at_once():
    norm = Replacement(name="norm.weight", value=np.ones(3))
    mag = Magnitude(module="q_proj", value=np.ones(3))
    with pytest.raises(AdapterError) as caught:
        Adapter(deltas=(delta(), delta()), replacements=(norm, norm), magnitudes=(mag, mag))
    assert len(caught.value.items) == 3


def test_one_module_may_have_a_delta_at_two_sites():
    both = (delta("embed", site=Site.INPUT), delta("embed", site=Site.OUTPUT))
    assert Adapter(deltas=both).modules == ("embed",)


def test_a_delta_of_the_projection_has_one_form():
    output = delta("lm_head", site=Site.OUTPUT)
    linear = replace(output, site=Site.LINEAR)
    assert output.key == linear.key
    assert Adapter(deltas=(output,)) == Adapter(deltas=(linear,))


def test_equal_content_is_equal_whatever_order_dtype_or_metadata():
    one, two = delta("a", dtype=np.float16), delta("b", dtype=BFLOAT16)

    def wide(d):
        return Delta(module=d.module, a=d.a.astype("f8"), b=d.b.astype("f4"), scale=d.scale)

    left = Adapter(deltas=(one, two), metadata={"x": 1})
    right = Adapter(deltas=(wide(two), wide(one)), precondition=Precondition(name="org/base"))
    assert left == right
    assert hash(left) == hash(right)
    assert left != "left"


def changed(adapter):
    """The adapter with one thing changed, for each thing that counts."""
    (d,) = adapter.deltas
    (r,) = adapter.replacements
    (m,) = adapter.magnitudes

    def with_(**parts):
        kept = {
            "deltas": (d,),
            "replacements": (r,),
            "magnitudes": (m,),
            "invocation_tokens": adapter.invocation_tokens,
        }
        return Adapter(**kept | parts)

    def other(**parts):
        kept = {"module": d.module, "a": d.a, "b": d.b, "scale": d.scale, "bias": d.bias}
        return with_(deltas=(Delta(**kept | parts),))

    yield other(module="k_proj")
    yield other(a=d.a + 1)
    yield other(b=d.b * 2)
    yield other(scale=1.5)
    yield other(site=Site.OUTPUT)
    yield other(bias=np.ones(3, np.float32))
    yield other(a=np.vstack([d.a, 0 * d.a]), b=np.hstack([d.b, 0 * d.b]))
    yield with_(replacements=(Replacement(name="norm.weight", value=r.value + 1),))
    yield with_(replacements=(Replacement(name="norm.bias", value=r.value),))
    yield with_(replacements=(Replacement(name="norm.weight", value=r.value, site=Site.INPUT),))
    yield with_(magnitudes=(Magnitude(module="q_proj", value=m.value * 2),))
    yield with_(magnitudes=())
    yield with_(invocation_tokens=(1,))


def test_whatever_counts_changes_the_digest():
    adapter = Adapter(
        deltas=(delta(),),
        replacements=(Replacement(name="norm.weight", value=np.ones(3, np.float32)),),
        magnitudes=(Magnitude(module="q_proj", value=np.ones(3, np.float32)),),
        invocation_tokens=(1, 2),
    )
    digests = [adapter.digest, *(other.digest for other in changed(adapter))]
    assert len(set(digests)) == len(digests) == 14


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, BFLOAT16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_anywhere(dtype, bad):
    for index in (0, 7, -1):
        d = delta(dtype=dtype)
        d.a.flat[index] = bad
        assert Adapter(deltas=(d,)).non_finite() == ["q_proj.A"]
    large = Delta(module="m", a=np.full((1, 9), 6e4, dtype), b=np.ones((1, 1), dtype), scale=1)
    assert Adapter(deltas=(large,)).non_finite() == []


@given(hnp.arrays(np.float32, (2, 6), elements=st.floats(width=32)))
def test_finite_is_what_numpy_says(values):
    d = Delta(module="m", a=values, b=np.ones((1, 2), np.float32), scale=1)
    assert (Adapter(deltas=(d,)).non_finite() == []) == bool(np.isfinite(values).all())


def test_sums_and_features():
    adapter = Adapter(
        deltas=(delta("a", rank=2), delta("b", rank=4, bias=np.ones(3, np.float32))),
        replacements=(
            Replacement(name="n.weight", value=np.ones(3, np.float32)),
            Replacement(name="e.weight", value=np.ones((2, 3), np.float32), rows=np.array([1, 4])),
        ),
        magnitudes=(Magnitude(module="a", value=np.ones(3, np.float32)),),
        invocation_tokens=(7,),
    )
    assert adapter.max_rank == 4
    assert adapter.parameters == 2 * 8 + 4 * 8 + 3 + 3 + 6 + 3
    assert adapter.nbytes == adapter.parameters * 4
    assert adapter.features == {"delta_bias", "replacement", "rows", "dora", "invocation"}
    assert Adapter().max_rank == 0
    assert Adapter().features == frozenset()


def test_it_cannot_be_changed():
    adapter = Adapter(deltas=(delta(),), metadata={"x": 1})
    with pytest.raises(AttributeError):
        adapter.deltas = ()
    with pytest.raises(TypeError):
        adapter.metadata["x"] = 2


def test_it_goes_to_another_process_and_is_the_same_there():
    adapter = Adapter(
        deltas=(delta("a", rank=2, bias=np.ones(3, np.float32)),),
        replacements=(
            Replacement(name="e.weight", value=np.ones((2, 3), np.float32), rows=np.array([1, 4])),
        ),
        magnitudes=(Magnitude(module="a", value=np.ones(3, ml_dtypes.bfloat16)),),
        invocation_tokens=(7,),
        precondition=Precondition(name="org/base"),
        metadata={"x": 1},
    )
    for other in (pickle.loads(pickle.dumps(adapter)), copy.deepcopy(adapter)):
        assert other is not adapter
        assert other == adapter
        assert (other.precondition, other.metadata) == (adapter.precondition, adapter.metadata)
        assert not any(array.flags.writeable for _, array in other.arrays())
        with pytest.raises(TypeError):
            other.metadata["x"] = 2
    assert copy.copy(adapter) is adapter
    assert all(array.flags.writeable for _, array in adapter.arrays())


LAYERS = ["model.layers.10.x", "model.layers.2.x", "model.layers.1.x", "lm_head"]


def of_layers():
    """Deltas of layers 1, 2 and 10, given in another order."""
    return Adapter(
        deltas=tuple(
            Delta(module=name, a=np.full((1, 2), n, "f4"), b=np.ones((3, 1), "f4"), scale=0.5)
            for n, name in enumerate(LAYERS)
        )
    )


def test_layers_come_in_the_order_of_their_numbers():
    in_numbers = ["lm_head", "model.layers.1.x", "model.layers.2.x", "model.layers.10.x"]
    assert in_order(LAYERS) == in_numbers == list(of_layers().modules)
    assert in_numbers != sorted(LAYERS)  # as texts they would not
    assert in_order(["a1", "a01", "a", "1a", "a1b", "a001", ""]) == [
        "", "1a", "a", "a001", "a01", "a1", "a1b",
    ]  # fmt: skip
    assert in_order(["a" + "9" * 5000, "a" + "1" * 5001])[0] == "a" + "9" * 5000
    assert in_order(["a²", "a٣", "a10", "a9"])[:2] == ["a9", "a10"]  # only 0 to 9 count


def test_a_digest_keeps_the_order_of_texts():
    """So that digests that were recorded before hold."""

    def by_hand(names):
        state = hashlib.sha256()
        for name in names:
            (delta,) = (d for d in of_layers().deltas if d.module == name)
            state.update(f"delta {name} linear {(0.5).hex()}\0".encode())
            for array in (delta.a, delta.b):
                state.update(f"{array.shape}\0".encode() + array.tobytes())
        state.update(b"()")
        return state.hexdigest()

    assert of_layers().digest == by_hand(sorted(LAYERS))
    assert of_layers().digest != by_hand(in_order(LAYERS))
