"""TIES, DARE and magnitude pruning against plain dense code, written here from the papers."""

import numpy as np
import pytest
from algebra_cases import adapter, best, delta, dense, relative

from lorakit.adapter import Adapter
from lorakit.algebra import combine
from lorakit.algebra.sparse import Sparse, target


def trim(matrix, density):
    count = int(density * matrix.size)
    limit = np.sort(np.abs(matrix), axis=None)[matrix.size - count]
    return np.where(np.abs(matrix) >= limit, matrix, 0)


def ties(matrices, density):
    kept = [trim(m, density) for m in matrices]
    found = np.zeros_like(matrices[0])
    for at in np.ndindex(found.shape):
        values = [m[at] for m in kept]
        agreeing = [v for v in values if v * sum(values) > 0]
        found[at] = np.mean(agreeing) if agreeing else 0
    return found


REFERENCES = {
    "ties": ties,
    "magnitude": lambda matrices, density: sum(trim(m, density) for m in matrices),
}


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_the_sparse_target_and_its_best_approximation(method, density):
    weighted = [(adapter(0, rank=4), 0.7), (adapter(1, rank=2), -1.3), (adapter(2), 1.0)]
    whole, _ = combine(weighted, method, energy=1.0, density=density)
    found, report = combine(weighted, method, rank=5, density=density)
    for row in report.modules:
        key = (row.module, row.site)
        expected = REFERENCES[method]([w * dense(a)[key] for a, w in weighted], density)
        assert relative(dense(whole)[key], expected) < 2e-6
        limit = relative(best(expected, 5), expected)
        assert relative(dense(found)[key], expected) == pytest.approx(limit, abs=1e-5)
        assert row.residual == pytest.approx(limit, abs=1e-5)
        assert row.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)


def test_dare_drops_at_random_rescales_and_repeats_with_its_seed():
    big = Adapter(deltas=(delta("m", 4, 0, (200, 150)),))
    exact = dense(big)["m", "linear"]
    parts = [(0, big.deltas[0], 2.0)]
    found = target(parts, Sparse(method="dare", density=0.25, seed=7))
    kept = found != 0
    assert kept.mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(found[kept], 8 * exact[kept], rtol=1e-5, atol=1e-5)
    mean = np.mean(
        [target(parts, Sparse(method="dare", density=0.25, seed=s)) for s in range(200)], axis=0
    )
    assert relative(mean, 2 * exact) < 0.2  # 3**0.5 / 200**0.5 expected: it is unbiased

    def run(seed):
        return combine([(big, 1.0), (adapter(1), 0.5)], "dare", rank=6, seed=seed)[0]

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_dare_that_keeps_everything_is_the_sum():
    weighted = [(adapter(0), 0.7), (adapter(1), 0.3)]
    found, report = combine(weighted, "dare", energy=1.0, density=1.0)
    exact, _ = combine(weighted)
    for key, matrix in dense(exact).items():
        assert relative(dense(found)[key], matrix) < 2e-6
    assert report.residual < 2e-6


def test_experts_and_adapters_that_lack_a_module():
    experts = Adapter(deltas=(delta("experts", 2, 0, (6, 8), lead=(3,)),))
    found, report = combine([(experts, 1.0), (adapter(1), 1.0)], "ties", rank=6, density=0.5)
    for index in range(3):
        expected = trim(dense(experts)["experts", "linear"][index], 0.5)
        assert relative(dense(found)["experts", "linear"][index], expected) < 2e-6
    assert report.residual < 0.5
    assert {m.residual < 2e-6 for m in report.modules if m.module == "experts"} == {True}


def test_opposites_leave_nothing():
    found, _ = combine([(adapter(0), 1.0), (adapter(0), -1.0)], "magnitude", rank=2)
    assert found.deltas == ()
