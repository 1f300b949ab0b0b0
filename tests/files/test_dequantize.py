"""Blocks of GGUF tensors: bit for bit the gguf package's values, here and where it is missing."""

import hashlib

import numpy as np
import pytest

from lorakit.errors import UnsupportedError
from lorakit.files.dequantize import READABLE, dequantize
from lorakit.files.gguf import Tensor
from lorakit.files.gguf_types import BLOCKS, PLAIN

QUANTISED = sorted(READABLE - set(PLAIN))
# What gguf 0.19 makes of `blocks`: its float32 bytes, 0 for what is not finite.
DIGESTS = {
    "IQ4_NL": "4edd9c47625f5f56",
    "IQ4_XS": "1711b8fab48e9552",
    "Q2_K": "f53f97b274675bf4",
    "Q3_K": "92516d2dccd48217",
    "Q4_0": "5f4cf02de41f8481",
    "Q4_1": "b40085a6c7b4f475",
    "Q4_K": "5e6e6688ea380c85",
    "Q5_0": "dc7b72d6d4600912",
    "Q5_1": "99a619fc8fe252e8",
    "Q5_K": "0353a6484f8ab159",
    "Q6_K": "b34b865555dffae2",
    "Q8_0": "805bf27c0a178458",
    "TQ1_0": "32d2d8b8cc509669",
    "TQ2_0": "9a0595207cc14a5a",
}


def blocks(kind):
    """Any bytes are blocks: so every code and every scale is met."""
    rng = np.random.default_rng(20240607)
    return rng.integers(0, 256, (5, 8 * BLOCKS[kind][1]), dtype=np.uint8)


def digest(values):
    finite = np.where(np.isfinite(values), values, 0).astype("<f4")
    return hashlib.sha256(finite.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("kind", QUANTISED)
def test_values_are_those_that_were_recorded(kind):
    raw = blocks(kind)
    values = dequantize(kind, raw)
    assert values.shape == (5, 8 * BLOCKS[kind][0])
    assert digest(values) == DIGESTS[kind]
    for at in range(BLOCKS[kind][1]):  # every byte of a block counts
        other = raw.copy()
        other[:, at] ^= 0x5A
        assert digest(dequantize(kind, other)) != DIGESTS[kind], at


@pytest.mark.parametrize("kind", QUANTISED)
def test_values_are_those_of_the_gguf_package(kind):
    gguf = pytest.importorskip("gguf")
    raw = blocks(kind)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    ours = dequantize(kind, raw)
    assert np.array_equal(ours.view(np.uint32), np.ascontiguousarray(theirs).view(np.uint32))


@pytest.mark.parametrize("kind", QUANTISED)
def test_some_rows_or_columns_alone_are_the_same(kind):
    values, size = BLOCKS[kind]
    raw, whole = blocks(kind), dequantize(kind, blocks(kind))
    assert np.array_equal(dequantize(kind, raw[3:]), whole[3:], equal_nan=True)
    some = dequantize(kind, raw[:, size : 3 * size])
    assert np.array_equal(some, whole[:, values : 3 * values], equal_nan=True)


def test_plain_values_become_float32():
    for kind, dtype in PLAIN.items():
        stored = np.array([[1.5, -2.0], [0.0, 240.0]]).astype(dtype)
        values = dequantize(kind, stored.view(np.uint8).reshape(2, -1))
        assert values.dtype == np.float32
        assert values.tolist() == [[1.5, -2.0], [0.0, 240.0]]


def test_a_type_that_is_not_read_is_refused():
    tensor = Tensor(kind="IQ2_XXS", shape=(1, 256), raw=np.zeros(66, np.uint8))
    with pytest.raises(UnsupportedError, match="IQ2_XXS"):
        tensor.array()
