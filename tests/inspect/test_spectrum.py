"""Singular values, against numpy's SVD of the whole matrix."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folders import DATA
from lorakit.adapter import Delta
from lorakit.formats import read_adapter
from lorakit.inspect.report import inspect
from lorakit.inspect.spectrum import spectra


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    scale=st.floats(-8, 8),
    experts=st.none() | st.integers(1, 3),
    dtype=st.sampled_from([np.float16, np.float32, ml_dtypes.bfloat16]),
)
def test_values_are_those_of_the_formed_matrix(shape, scale, experts, dtype):
    rank, n_in, n_out = shape
    lead = () if experts is None else (experts,)
    rng = np.random.default_rng(rank)
    a = rng.standard_normal((*lead, rank, n_in)).astype(dtype)
    b = rng.standard_normal((*lead, n_out, rank)).astype(dtype)
    found = spectra(Delta(module="m", a=a, b=b, scale=scale))
    full = scale * (b.astype(np.float64) @ a.astype(np.float64))
    for one, matrix in zip(found, full if experts else [full], strict=True):
        truth = np.linalg.svd(matrix, compute_uv=False)[: len(one.values)]
        np.testing.assert_allclose(one.values, truth, rtol=1e-9, atol=1e-12 * (1 + abs(scale)))
        assert list(one.values) == sorted(one.values, reverse=True)


def test_ranks_of_known_spectra():
    values = np.array([3.0, 1.0, 1.0, 0.1])
    (found,) = spectra(Delta(module="m", a=np.diag(values), b=np.eye(4), scale=-2.0))
    assert found.values == pytest.approx(2 * values)
    share = values / values.sum()
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)))
    assert found.stable_rank == pytest.approx(11.01 / 9)
    assert (found.rank90, found.rank99) == (2, 3)  # 10 / 11.01 and 11 / 11.01 of the energy
    (same,) = spectra(Delta(module="m", a=np.eye(4), b=np.eye(4), scale=1.0))
    assert same.effective_rank == pytest.approx(4)
    assert (same.stable_rank, same.rank90, same.rank99) == (pytest.approx(4), 4, 4)


def test_zero_and_nan_are_no_accident():
    zero = Delta(module="m", a=np.ones((2, 3)), b=np.zeros((4, 2)), scale=1.0)
    (found,) = spectra(zero)
    assert found.values == (0, 0)
    assert (found.effective_rank, found.stable_rank, found.rank99) == (0, 0, 0)
    (bad,) = spectra(Delta(module="m", a=np.full((2, 3), np.nan), b=np.ones((4, 2)), scale=1.0))
    assert all(math.isnan(value) for value in bad.values)
    assert math.isnan(bad.effective_rank)


def test_a_report_holds_them_when_asked_for():
    adapter = read_adapter(DATA / "truth/peft/gemma3/patterns")
    assert inspect(adapter, values=True).modules[0].spectra is None
    for module in inspect(adapter, spectrum=True).modules:
        (found,) = module.spectra
        assert len(found.values) == module.rank
        assert math.hypot(*found.values) == pytest.approx(module.norm)
