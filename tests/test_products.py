"""Products on the calling thread beside numpy's own."""

import numpy as np
import pytest

from lorakit.products import ALONE, add_product, upper_factor

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("m", "k", "n"), [(32, 300, 1000), (1, 1, 1), (7, 128, 64), (3, 0, 5), (300, 5, 70)]
)
def test_a_product_in_pieces_is_the_whole(m, k, n):
    a, b = RNG.standard_normal((m, k)), RNG.standard_normal((k, n))
    total = np.ones((m, n))
    add_product(total, a, b)
    np.testing.assert_allclose(total, 1 + a @ b, atol=1e-12 * max(k, 1))


def test_no_piece_is_larger_than_what_stays_on_the_calling_thread():
    """The broken variant hands the product to BLAS as it is."""
    sizes = []

    class Noted(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **more):
            plain = [np.asarray(each) for each in inputs]
            if ufunc is np.matmul:  # BLAS gets the matrices of a stack one by one
                size = plain[0].shape[-2] * plain[0].shape[-1] * plain[1].shape[-1]
                sizes.extend([size] * (len(plain[1]) if plain[1].ndim == 3 else 1))
            return getattr(ufunc, method)(*plain, **more)

    a, b = RNG.standard_normal((32, 512)).view(Noted), RNG.standard_normal((512, 512)).view(Noted)
    add_product(np.zeros((32, 512)), a, b)
    assert max(sizes) <= ALONE
    assert sum(sizes) == 32 * 512 * 512
    np.asarray(a @ b)
    assert sizes[-1] > ALONE


@pytest.mark.parametrize("size", [1, 64, 65, 200])
def test_a_factor_gives_the_matrix(size):
    x = RNG.standard_normal((300, size))
    matrix = x.T @ x
    found = upper_factor(matrix)
    np.testing.assert_array_equal(found, np.triu(found))
    np.testing.assert_allclose(found, np.linalg.cholesky(matrix).T, atol=1e-10)


def test_a_matrix_that_has_none_is_refused():
    with pytest.raises(np.linalg.LinAlgError):
        upper_factor(np.diag([1.0, -1.0]))
