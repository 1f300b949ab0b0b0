"""Overlap of two adapters, against the formed matrices."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.adapter import Adapter, Delta, Magnitude
from lorakit.errors import AdapterError, MismatchError, ParameterError
from lorakit.inspect.overlap import overlap

OUT, IN = 10, 14


def delta(seed, rank=2, module="model.layers.0.q_proj", scale=1.0, experts=None):
    rng = np.random.default_rng(seed)
    lead = () if experts is None else (experts,)
    a, b = rng.standard_normal((*lead, rank, IN)), rng.standard_normal((*lead, OUT, rank))
    return Delta(module=module, a=a.astype("f4"), b=b.astype("f4"), scale=scale)


def one(**options):
    return Adapter(deltas=(delta(**options),))


def formed(d):
    return d.scale * d.b.astype(np.float64) @ d.a.astype(np.float64)


def spaces(matrix):
    """Orthonormal bases of row and column space, by numpy's SVD of the whole matrix."""
    u, s, vt = np.linalg.svd(matrix)
    rank = int((s > 1e-9 * s[0]).sum())
    return vt[:rank].T, u[:, :rank]


def shared(one, other):
    """||U^T V||_F^2 / min, entry by entry, and the angles by their definition."""
    product = one.T @ other
    angles = np.degrees(np.arccos(np.clip(np.linalg.svd(product, compute_uv=False), 0, 1)))
    return (product**2).sum() / min(product.shape), angles


@given(
    seed=st.integers(0, 50),
    ranks=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    scales=st.tuples(st.floats(0.1, 4), st.floats(-4, -0.1)),
)
def test_it_is_what_the_formed_matrices_say(seed, ranks, scales):
    first = delta([seed, 1], ranks[0], scale=scales[0])
    second = delta([seed, 2], ranks[1], scale=scales[1])
    found = overlap(Adapter(deltas=(first,)), Adapter(deltas=(second,)))
    (module,) = found.modules
    d1, d2 = formed(first), formed(second)
    cosine = (d1 * d2).sum() / (np.linalg.norm(d1) * np.linalg.norm(d2))
    assert module.cosine == pytest.approx(cosine, abs=1e-9)
    assert found.cosine == pytest.approx(cosine, abs=1e-9)
    for side, u, v in zip(("inputs", "outputs"), spaces(d1), spaces(d2), strict=True):
        share, angles = shared(u, v)
        assert getattr(module, side) == pytest.approx(share, abs=1e-9)
        np.testing.assert_allclose(getattr(module, f"angles_{side}"), angles, atol=1e-4)
        largest = max(u.shape[1], v.shape[1])
        assert getattr(module, f"chance_{side}") == pytest.approx(largest / len(u))
    assert module.norms == pytest.approx((np.linalg.norm(d1), np.linalg.norm(d2)))
    # a mean of the cosines of the angles is another number, and would be seen
    other_measure = np.cos(np.radians(module.angles_inputs)).mean()
    assert abs(other_measure - module.inputs) > 1e-6 or module.inputs > 0.999


def test_the_same_the_opposite_and_what_has_nothing_in_common():
    first = one(seed=1)
    same = overlap(first, first)
    assert (same.cosine, same.inputs, same.outputs) == pytest.approx((1, 1, 1))
    assert same.modules[0].angles_inputs == pytest.approx((0, 0), abs=1e-3)
    negated = replace(first, deltas=(replace(first.deltas[0], scale=-2.0),))
    opposite = overlap(first, negated)
    assert (opposite.cosine, opposite.inputs) == pytest.approx((-1, 1))
    eye = np.eye(4)
    left = Adapter(deltas=(Delta(module="m", a=eye[:2], b=eye[:, :2], scale=1.0),))
    reads = Adapter(deltas=(Delta(module="m", a=eye[:2], b=eye[:, 2:], scale=1.0),))
    found = overlap(left, reads)  # the same inputs, other outputs
    assert (found.cosine, found.inputs, found.outputs) == (0, pytest.approx(1), 0)
    assert found.modules[0].angles_outputs == pytest.approx((90, 90))


def test_random_spaces_have_what_chance_gives():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(2):
        a, b = rng.standard_normal((8, 256)), rng.standard_normal((256, 8))
        pairs.append(Adapter(deltas=(Delta(module="m", a=a, b=b, scale=1.0),)))
    found = overlap(*pairs)
    assert found.chance_inputs == 8 / 256
    assert found.inputs == pytest.approx(found.chance_inputs, rel=0.5)
    assert abs(found.cosine) < 0.02


def test_the_whole_counts_what_only_one_changes():
    q, v = "model.layers.0.q_proj", "model.layers.0.v_proj"
    both = Adapter(deltas=(delta(1, module=q), delta(2, module=v)))
    found = overlap(both, Adapter(deltas=(delta(1, module=q),)))
    assert [m.module for m in found.modules] == [q]
    assert (found.only_first, found.only_second) == ((v,), ())
    norms = [np.linalg.norm(formed(d)) for d in both.deltas]
    assert found.cosine == pytest.approx(norms[0] / math.hypot(*norms))


def test_experts_are_means_over_them():
    first, second = delta(1, experts=3), delta(2, experts=3)
    (module,) = overlap(Adapter(deltas=(first,)), Adapter(deltas=(second,))).modules
    apart = [
        overlap(
            *(
                Adapter(deltas=(Delta(module="m", a=d.a[n], b=d.b[n], scale=1.0),))
                for d in (first, second)
            )
        ).modules[0]
        for n in range(3)
    ]
    assert module.inputs == pytest.approx(np.mean([m.inputs for m in apart]))
    angles = np.mean([m.angles_outputs for m in apart], axis=0)
    assert module.angles_outputs == pytest.approx(tuple(angles))
    flat = [np.concatenate([formed(d)[n].ravel() for n in range(3)]) for d in (first, second)]
    cosine = flat[0] @ flat[1] / np.prod([np.linalg.norm(f) for f in flat])
    assert module.cosine == pytest.approx(cosine)


def test_what_cannot_be_compared_is_said():
    with pytest.raises(ParameterError, match="no module together"):
        overlap(one(seed=1), one(seed=1, module="model.layers.1.q_proj"))
    short = Delta(module="model.layers.0.q_proj", a=np.ones((1, 3)), b=np.ones((OUT, 1)), scale=1)
    with pytest.raises(MismatchError) as refused:
        overlap(one(seed=1), Adapter(deltas=(short,)))
    assert refused.value.items == (
        "model.layers.0.q_proj: [10, 14] in the first, [10, 3] in the second",
    )
    nan = replace(delta(1), a=np.full((2, IN), np.nan))
    with pytest.raises(AdapterError, match="NaN"):
        overlap(one(seed=1), Adapter(deltas=(nan,)))
    zero = replace(delta(1), b=np.zeros((OUT, 2)))
    found = overlap(one(seed=1), Adapter(deltas=(zero,)))
    assert (found.cosine, found.inputs, found.modules[0].angles_inputs) == (0, 0, ())


def test_what_is_beside_the_deltas_is_noted():
    dora = replace(one(seed=1), magnitudes=(Magnitude(module="m", value=np.ones(OUT)),))
    assert overlap(one(seed=2), dora).notes == ("the second: dora not compared",)
