"""Resizing against the full SVD, and the randomized SVD against LAPACK's."""

import numpy as np
import pytest
from algebra_cases import adapter, best, delta, dense, embedding, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.adapter import Adapter, Magnitude, Replacement
from lorakit.algebra import resize
from lorakit.algebra.lowrank import EXACT, SMALL, Cut, cut_dense, dense_error
from lorakit.errors import ParameterError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 24), st.integers(1, 20))
def test_it_is_as_near_as_any_matrix_of_that_rank(seed, rank, target):
    before = adapter(seed, rank=rank)
    after, report = resize(before, target)
    for row in report.modules:
        exact = dense(before)[row.module, row.site]
        limit = relative(best(exact, target), exact)
        found = relative(dense(after)[row.module, row.site], exact)
        assert found == pytest.approx(limit, rel=1e-5, abs=3e-7)
        assert row.residual == pytest.approx(found, rel=1e-6, abs=1e-9)
        assert row.rank_after <= min(rank, target, 24)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99, 1.0])
def test_energy_takes_the_least_rank_that_holds_it(energy):
    before = Adapter(deltas=(*adapter(0, rank=10).deltas, embedding(1, rank=8)))
    after, report = resize(before, energy=energy)
    for row in report.modules:
        squares = np.linalg.svd(dense(before)[row.module, row.site])[1] ** 2
        share = np.cumsum(squares) / squares.sum()
        assert row.rank_after == int(np.sum(share < energy - 1e-9)) + 1
        assert row.residual**2 <= 1 - energy + 1e-9
    both, _ = resize(before, rank=2, energy=energy)
    assert both.max_rank <= 2
    assert after.max_rank >= both.max_rank


def test_factors_are_balanced_float32_at_scale_one():
    after, _ = resize(adapter(0, rank=8, scale=3.0), 4)
    for d in after.deltas:
        assert (d.scale, d.a.dtype, d.b.dtype, d.rank) == (1.0, np.float32, np.float32, 4)
        np.testing.assert_allclose(d.a @ d.a.T, d.b.T @ d.b, atol=1e-4)


def test_zero_deltas_go_and_other_parts_stay():
    zero = delta("zero", 2, 0, (4, 6), scale=0.0)
    parts = {
        "replacements": (Replacement(name="model.norm.weight", value=np.ones(3)),),
        "magnitudes": (Magnitude(module="zero", value=np.ones(4)),),
        "invocation_tokens": (1,),
    }
    after, report = resize(Adapter(deltas=(zero, *adapter(0).deltas)), 2)
    assert "zero" not in after.modules
    assert [m.rank_after for m in report.modules if m.module == "zero"] == [0]
    after, _ = resize(Adapter(deltas=(zero,), **parts), 2)
    assert after.modules == ("zero",)  # its magnitude needs it
    assert after.features == {"replacement", "dora", "invocation"}


def test_experts_share_a_rank_and_biases_are_scaled():
    experts = delta("experts", 5, 0, (6, 8), lead=(3,), scale=2.0)
    biased = delta("biased", 5, 1, (6, 8), scale=2.0, bias=np.ones(6, np.float32))
    after, report = resize(Adapter(deltas=(experts, biased)), 3)
    by_name = {d.module: d for d in after.deltas}
    assert by_name["experts"].a.shape == (3, 3, 8)
    np.testing.assert_array_equal(by_name["biased"].bias, np.full(6, 2.0))
    exact = dense(Adapter(deltas=(experts,)))["experts", "linear"]
    cut = np.stack([best(one, 3) for one in exact])
    row = next(m for m in report.modules if m.module == "experts")
    assert row.residual == pytest.approx(relative(cut, exact), rel=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"rank": 0}, {"energy": 0.0}, {"energy": 1.1}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ParameterError):
        resize(adapter(0), **arguments)


def test_a_rank_that_cuts_nothing_is_said():
    most = adapter(0).max_rank
    assert resize(adapter(0), rank=most)[1].notes == (
        f"no module has a rank above {most}: at {most} nothing is cut off",
    )
    assert resize(adapter(0), rank=most - 1)[1].notes == ()
    assert resize(adapter(0), energy=0.5)[1].notes == ()


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("least", [SMALL, EXACT])
def test_the_randomized_svd_is_within_a_percent_of_the_best(decay, least):
    rng = np.random.default_rng(0)
    n, m = least + 40, least + 10
    u, v = (np.linalg.qr(rng.standard_normal((size, m)))[0] for size in (n, m))
    values = np.arange(1, m + 1) ** -decay
    matrix = ((u * values) @ v.T).astype(np.float32)
    rank = 12
    found = cut_dense(matrix, Cut(rank=rank))
    limit = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
    assert dense_error(matrix, found.b, found.a) <= 1.01 * limit * np.linalg.norm(matrix)
    again = cut_dense(matrix, Cut(rank=rank))
    np.testing.assert_array_equal(found.b, again.b)
    exact = cut_dense(matrix, Cut(rank=rank, exact=True))
    assert dense_error(matrix, exact.b, exact.a) == pytest.approx(
        limit * np.linalg.norm(matrix), rel=1e-5
    )
    assert not np.array_equal(found.b, exact.b)  # it was the randomized one


def test_the_randomized_svd_finds_an_energy():
    rng = np.random.default_rng(0)
    shape = (EXACT + 10, EXACT + 20)
    factors = rng.standard_normal((shape[0], 40)), rng.standard_normal((40, shape[1]))
    matrix = (factors[0] @ factors[1]).astype(np.float32)
    share = np.cumsum(np.linalg.svd(matrix, compute_uv=False)[:40].astype(np.float64) ** 2)
    found = cut_dense(matrix, Cut(energy=0.9))
    assert found.a.shape[0] == int(np.sum(share / share[-1] < 0.9)) + 1
    assert cut_dense(matrix, Cut(energy=1.0)).a.shape[0] >= 40
