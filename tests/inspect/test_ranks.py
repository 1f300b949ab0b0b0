"""What each rank keeps, against what resize really leaves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit import demo
from lorakit.adapter import Adapter, Delta
from lorakit.algebra import resize
from lorakit.errors import AdapterError, ParameterError
from lorakit.formats import read_adapter
from lorakit.inspect.ranks import rank_curve


def adapter(seed, ranks=(3, 5), experts=None, scale=0.7):
    rng = np.random.default_rng(seed)
    lead = () if experts is None else (experts,)
    deltas = [
        Delta(
            module=f"model.layers.{n}.q_proj",
            a=rng.standard_normal((*lead, r, 11)).astype("f4"),
            b=rng.standard_normal((*lead, 9, r)).astype("f4"),
            scale=scale,
        )
        for n, r in enumerate(ranks)
    ]
    return Adapter(deltas=tuple(deltas))


def residuals(found):
    """By the definition: every delta formed, and the best approximation of each rank by numpy."""
    matrices = [
        matrix
        for d in found.deltas
        for matrix in np.atleast_3d(
            (d.scale * d.b.astype(np.float64) @ d.a.astype(np.float64)).reshape(
                -1, d.out_features, d.in_features
            )
        )
    ]
    whole = math.hypot(*(np.linalg.norm(m) for m in matrices))
    for rank in range(1, found.max_rank + 1):
        errors = []
        for m in matrices:
            u, s, vt = np.linalg.svd(m, full_matrices=False)
            errors.append(np.linalg.norm(u[:, :rank] * s[:rank] @ vt[:rank] - m))
        yield math.hypot(*errors) / whole


@given(
    seed=st.integers(0, 99),
    ranks=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    experts=st.none() | st.integers(1, 3),
)
def test_each_rank_is_as_the_formed_matrices_say(seed, ranks, experts):
    made = adapter(seed, ranks, experts)
    curve = rank_curve(made)
    points = curve.points
    assert [p.rank for p in points] == list(range(1, made.max_rank + 1))
    assert points[-1].nbytes == curve.nbytes  # of all experts
    np.testing.assert_allclose([p.residual for p in points], list(residuals(made)), atol=1e-7)
    assert all(p.energy == pytest.approx(1 - p.residual**2, abs=1e-12) for p in points)


def test_a_share_that_a_rank_keeps_exactly_is_kept_by_it():
    """Two directions of equal size, stored at rank 4: half of the squares, and all of them."""
    a, b = np.zeros((4, 11), "f4"), np.zeros((9, 4), "f4")
    a[0, 0] = a[1, 1] = b[0, 0] = b[1, 1] = 1.0
    delta = Delta(module="model.layers.0.q_proj", a=a, b=b, scale=1.0)
    curve = rank_curve(Adapter(deltas=(delta,)))
    assert [curve.least(share).rank for share in (0.4, 0.5, 0.6, 1.0)] == [1, 1, 2, 2]


def test_it_is_what_resize_reports_and_stores():
    home = read_adapter(demo.adapter_path("home"))
    curve = rank_curve(home)
    for point in curve.points:
        small, report = resize(home, point.rank)
        assert report.residual == pytest.approx(point.residual, abs=1e-6)
        worst = max(report.modules, key=lambda m: m.residual)
        assert worst.residual == pytest.approx(point.worst_residual, abs=1e-6)
        assert point.rank == 8 or worst.module == point.worst
        assert small.nbytes == point.nbytes
    # a mean of the modules' residuals is another number, and would be seen
    mean = [sum(m.residual for m in resize(home, r)[1].modules) / 42 for r in (1, 4)]
    assert all(abs(mean[n] - curve.points[r - 1].residual) > 1e-4 for n, r in enumerate((1, 4)))
    assert curve.nbytes == home.nbytes


def test_the_least_rank_of_a_share():
    values = np.array([3.0, 1.0, 1.0, 0.1])
    diagonal = Delta(module="m", a=np.diag(values), b=np.eye(4), scale=2.0)
    curve = rank_curve(Adapter(deltas=(diagonal,)))
    assert [curve.least(e).rank for e in (0.5, 9 / 11.01, 0.82, 0.99, 1.0)] == [1, 1, 2, 3, 4]
    for wrong in (0.0, 1.1, math.nan, "x"):
        with pytest.raises(ParameterError, match="energy"):
            curve.least(wrong)


def test_nothing_and_nan_are_said():
    with pytest.raises(ParameterError, match="no low-rank delta"):
        rank_curve(Adapter())
    nan = Delta(module="m", a=np.full((1, 2), np.nan), b=np.ones((2, 1)), scale=1.0)
    with pytest.raises(AdapterError, match="NaN"):
        rank_curve(Adapter(deltas=(nan,)))
    zero = Delta(module="m", a=np.ones((2, 3)), b=np.zeros((4, 2)), scale=1.0)
    curve = rank_curve(Adapter(deltas=(zero,)))
    assert [(p.residual, p.energy) for p in curve.points] == [(0, 1), (0, 1)]
    assert curve.to_dict()["points"][1]["rank"] == 2
