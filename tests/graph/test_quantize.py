"""Quantised weights, unpacked again by plain arithmetic."""

import ml_dtypes
import numpy as np
import pytest

from lorakit.graph import int8, quantize

WEIGHT = np.random.default_rng(0).standard_normal((24, 64), np.float32)


def test_int8_columns():
    values, scales = int8.int8_columns(WEIGHT)
    assert values.shape == (64, 24)
    assert np.abs(values).max(axis=0).min() == 127
    assert (np.abs(values.T * scales[:, None] - WEIGHT) <= scales[:, None] * 0.501).all()


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (4, 32), (4, 16)])
def test_blocks(bits, block):
    values, scales = quantize._blocks(WEIGHT, bits, block)
    assert values.shape == (24, 64 // block, block * bits // 8)
    codes = values
    if bits == 4:
        codes = np.stack([values & 15, values >> 4], axis=-1).reshape(24, -1, block)
    found = (codes.astype(np.float32) - (1 << (bits - 1))) * scales[..., None]
    error = np.abs(found - WEIGHT.reshape(found.shape))
    # the end opposite to the largest value is one step short
    assert (error <= np.abs(scales[..., None]) * 1.001).all()
    assert (error <= np.abs(scales[..., None]) * 0.501).mean() > 0.97


def test_zeros_stay_zeros():
    zeros = np.zeros((4, 32), np.float32)
    values, scales = int8.int8_columns(zeros)
    assert not values.any()
    assert np.isfinite(scales).all()
    codes, scales = quantize._blocks(zeros, 8, 32)
    assert not ((codes.astype(int) - 128) * scales[..., None]).any()


def test_parts_give_the_same_as_the_whole(monkeypatch):
    weight = WEIGHT.astype(ml_dtypes.bfloat16)
    whole = int8.int8_columns(weight), quantize._blocks(weight, 4, 32)
    transposed = quantize._transposed(weight, np.float32)
    monkeypatch.setattr(int8, "BLOCK_BYTES", 1000)
    for one, other in zip(
        (*whole[0], *whole[1], transposed),
        (
            *int8.int8_columns(weight),
            *quantize._blocks(weight, 4, 32),
            quantize._transposed(weight, np.float32),
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(transposed, weight.astype(np.float32).T)
