"""RoPE frequencies against their published formulas."""

import math

import numpy as np

from lorakit.architectures import Rope
from lorakit.graph.rope import inverse_frequencies, tables


def test_default_and_linear():
    plain = inverse_frequencies(Rope(theta=10000.0), 8)
    np.testing.assert_allclose(plain, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
    slowed = inverse_frequencies(Rope(theta=10000.0, kind="linear", factor=4.0), 8)
    np.testing.assert_allclose(slowed, plain / 4, rtol=1e-6)


def test_llama3_keeps_short_waves_and_slows_long_ones():
    rope = Rope(theta=500000.0, kind="llama3", factor=8.0, original_context=8192)
    plain = inverse_frequencies(Rope(theta=500000.0), 128)
    scaled = inverse_frequencies(rope, 128)
    waves = 2 * math.pi / plain
    np.testing.assert_array_equal(scaled[waves < 8192 / 4], plain[waves < 8192 / 4])
    np.testing.assert_allclose(scaled[waves > 8192], plain[waves > 8192] / 8, rtol=1e-6)
    assert (np.diff(scaled) < 0).all()


def test_tables():
    cos, sin = tables(Rope(theta=10000.0), 8, 5)
    assert cos.shape == sin.shape == (5, 4)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_allclose(cos**2 + sin**2, 1, rtol=1e-6)
    np.testing.assert_allclose(sin[3, 1], math.sin(0.3), rtol=1e-6)
