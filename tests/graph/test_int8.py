"""Products in 8-bit integers beside plain arithmetic: rows as they are, and rows made even."""

import numpy as np
import pytest

from lorakit.engines.onnx.ort import open_session
from lorakit.graph import MemoryStore
from lorakit.graph.even import BLOCK, balanced, rotation
from lorakit.graph.int8 import int8_columns, rowwise_int8
from lorakit.graph.writer import Writer

RNG = np.random.default_rng(0)
IN, OUT = 96, 24
WEIGHT = RNG.standard_normal((OUT, IN), np.float32)
X = RNG.standard_normal((2, 5, IN), np.float32)
X[..., 7] *= 40  # a channel that is large for every token
X[1, 3, 50] = 300  # and a single value
DIVISORS = balanced(np.square(X).mean((0, 1)), np.square(WEIGHT).mean(0))


def product(weight, x, divisors=None, *, unsigned=False):
    """By the engine's nodes."""
    store = MemoryStore()
    w = Writer(store)
    given = w.input("x", ["batch", "new", weight.shape[1]])
    y = rowwise_int8(w, "m", given, weight, unsigned=unsigned, divisors=divisors)
    w.node("Identity", [y], w.output("y", ["batch", "new", len(weight)]))
    session = open_session(w.finish(), threads=1, initializers=store.arrays)
    return session.run(None, {"x": x})[0]


def by_hand(weight, x, divisors=None):
    """The same integers by plain arithmetic."""
    w, size = weight.astype(np.float64), 1
    if divisors is not None:
        turn = rotation(weight.shape[1]).astype(np.float64)
        size = len(turn)

        def turned(rows):
            return (rows.reshape(-1, size) @ turn).reshape(rows.shape)

        x, w = turned(x / divisors.astype(np.float64)), turned(w * divisors) / size
    scales = np.abs(w).max(1) / 127
    codes = np.rint(w / scales[:, None])
    largest = np.abs(x).max(-1, keepdims=True)
    return np.rint(127 * x / largest) @ codes.T * scales * largest / 127


def error(found):
    exact = X.astype(np.float64) @ WEIGHT.T
    return np.sqrt(np.square(found - exact).mean())


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("divisors", [None, DIVISORS], ids=["as they are", "even"])
def test_products_are_those_of_the_integers(divisors, unsigned):
    """float32 may round one code of a thousand the other way, which moves a product a little."""
    found, expected = product(WEIGHT, X, divisors, unsigned=unsigned), by_hand(WEIGHT, X, divisors)
    assert np.abs(found - expected).max() < 0.02 * error(expected)


def test_rows_that_are_made_even_err_less():
    """The broken variant is the form without: divisors alone or the rotation alone do less."""
    plain, even = error(product(WEIGHT, X)), error(product(WEIGHT, X, DIVISORS))
    assert even < plain / 4
    assert even < error(product(WEIGHT, X, np.ones(IN, np.float32))) / 1.5


def test_codes_of_a_row_depend_on_that_row_alone():
    mates = X.copy()
    mates[0] *= 1000
    mates[1, 0] = 1e6
    np.testing.assert_array_equal(
        product(WEIGHT, X, DIVISORS)[1, 1:], product(WEIGHT, mates, DIVISORS)[1, 1:]
    )
    np.testing.assert_array_equal(
        product(WEIGHT, X, DIVISORS)[1:, 2:3], product(WEIGHT, X[1:, 2:3], DIVISORS)
    )


def test_weights_undo_what_makes_rows_even():
    values, scales = int8_columns(WEIGHT, DIVISORS)
    turn = rotation(IN)
    weight = (values.T * scales[:, None]).reshape(OUT, -1, len(turn)) @ turn
    assert values.shape == (IN, OUT)
    assert np.abs(values).max(axis=0).min() == 127
    difference = weight.reshape(OUT, IN) / DIVISORS - WEIGHT
    assert np.abs(difference).max() < 0.05 * np.abs(WEIGHT).max()


@pytest.mark.parametrize(("channels", "size"), [(640, 32), (64, 32), (48, 16), (10, 2), (7, 1)])
def test_blocks_of_a_rotation_divide_the_channels(channels, size):
    turn = rotation(channels)
    assert len(turn) == size <= BLOCK
    np.testing.assert_array_equal(turn, turn.T)
    np.testing.assert_array_equal(turn @ turn, size * np.eye(size))
    weight = RNG.standard_normal((8, channels), np.float32)
    x = RNG.standard_normal((1, 3, channels), np.float32)
    found = product(weight, x, np.ones(channels, np.float32))
    assert np.abs(found - x @ weight.T).max() < 0.1 * np.abs(x @ weight.T).max()


def test_divisors_are_as_large_as_a_channel_beside_its_weights():
    inputs, weights = np.array([1.0, 16, 1, 1]), np.array([1.0, 1, 1, 16])
    found = balanced(inputs, weights)
    np.testing.assert_allclose(found, [1, 2, 1, 0.5], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("inputs", [np.zeros(4), np.array([1, 0, 0, 1e30])])
@pytest.mark.parametrize("weights", [np.zeros(4), np.array([0, 1, 0, 1e-30])])
def test_dead_channels_have_divisors_too(inputs, weights):
    found = balanced(inputs.astype(np.float32), weights.astype(np.float32))
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_no_rows_give_none():
    assert product(WEIGHT, X[:, :0], DIVISORS).shape == (2, 0, OUT)


def test_rows_of_zeros_give_zeros():
    assert not np.nan_to_num(product(WEIGHT, np.zeros_like(X), DIVISORS)).any()
