"""Quantised weights, unpacked again by plain arithmetic."""

import ml_dtypes
import numpy as np
import pytest

from lorakit.engines.onnx.ort import open_session
from lorakit.graph import MemoryStore, blockwise, int8, quantize, weights
from lorakit.graph.codes4 import codes4, feedback_of
from lorakit.graph.even import Seen, balanced, evened_moments, rotation
from lorakit.graph.writer import Writer

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((24, 64), np.float32)
X = RNG.standard_normal((400, 64), np.float32) @ RNG.standard_normal((64, 64), np.float32)
X[:, 7] *= 20  # a channel that is large, and all go together in some way


@pytest.fixture
def rng():
    """One test's own, so that its numbers are the same whichever tests ran before."""
    return np.random.default_rng(1)


def nibbles(packed):
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def unpacked(packed, bits):
    """float32 [out, in] of the operator's codes."""
    scales = packed.scales.astype(np.float32)[..., None]
    if bits == 8:
        found = (packed.codes.astype(np.float32) - 128) * scales
    else:
        zeros = nibbles(packed.zeros)[:, : scales.shape[1], None]
        found = (nibbles(packed.codes).astype(np.float32) - zeros) * scales
    return found.reshape(len(found), -1)


def shown(x, weight):
    divisors = balanced(np.square(x).mean(0), np.square(weight).mean(0))
    return Seen(divisors, feedback_of(evened_moments(x.T @ x, divisors)))


def test_int8_columns():
    values, scales = int8.int8_columns(WEIGHT)
    assert values.shape == (64, 24)
    assert np.abs(values).max(axis=0).min() == 127
    assert (np.abs(values.T * scales[:, None] - WEIGHT) <= scales[:, None] * 0.501).all()


@pytest.mark.parametrize("block", [32, 16])
def test_blocks_of_8_bits(block):
    packed = blockwise.packed8(WEIGHT, block)
    assert packed.codes.shape == (24, 64 // block, block)
    assert packed.scales.dtype == np.float16
    scale = np.abs(packed.scales.astype(np.float32)).repeat(block, axis=1)
    error = np.abs(unpacked(packed, 8) - WEIGHT)
    # the end opposite to the largest value is one step short; scales are rounded
    assert (error <= scale * 1.1).all()
    assert (error <= scale * 0.57).mean() > 0.97


@pytest.mark.parametrize(("inputs", "block"), [(64, 32), (64, 16), (96, 32)])
@pytest.mark.parametrize("shift", [-3, 0, 5])
def test_blocks_of_4_bits(inputs, block, shift, rng):
    """With a zero point: a shifted block is as near. An odd number of blocks has a padded one."""
    weight = rng.standard_normal((24, inputs), np.float32) + np.float32(shift)
    packed = blockwise.packed4(weight, block)
    assert packed.codes.shape == (24, inputs // block, block // 2)
    assert packed.zeros.shape == (24, (inputs // block + 1) // 2)
    blocks = weight.reshape(24, -1, block)
    span = np.maximum(blocks.max(-1), 0) - np.minimum(blocks.min(-1), 0)
    error = np.abs(unpacked(packed, 4) - weight).reshape(blocks.shape)
    assert np.sqrt(np.square(error).mean(-1)).max() < (span / 15).max() * 0.5


def test_ranges_are_searched(monkeypatch, rng):
    """The broken variant takes each block's whole range."""
    weight = rng.standard_normal((64, 256), np.float32)
    searched = np.square(unpacked(blockwise.packed4(weight, 32), 4) - weight).mean()
    monkeypatch.setattr("lorakit.graph.codes4.RANGES", (1.0,))
    whole = np.square(unpacked(blockwise.packed4(weight, 32), 4) - weight).mean()
    assert searched < 0.97 * whole


def output_error(weight, seen, x=X):
    """Of x times the unpacked weight, both as the graph has them."""
    packed = blockwise.packed4(weight, 32, seen)
    found = unpacked(packed, 4)
    if seen is not None:
        turn = rotation(weight.shape[1])
        found = (found.reshape(len(found), -1, len(turn)) @ turn).reshape(found.shape)
        found = found / seen.divisors
    return float(np.square(x @ (found - weight).T).mean())


def test_what_a_text_has_shown_lessens_the_error():
    """Even rows do, and errors fed back. The broken variants are without."""
    seen = shown(X, WEIGHT)
    plain, even = output_error(WEIGHT, None), output_error(WEIGHT, Seen(seen.divisors))
    fed_back = output_error(WEIGHT, seen)
    assert even < 0.7 * plain
    assert fed_back < 0.7 * even


def test_inputs_that_do_not_go_together_feed_nothing_back():
    values = np.ascontiguousarray(WEIGHT.T)
    alone = codes4(values.copy(), 32)
    apart = codes4(values.copy(), 32, feedback_of(np.diag(np.arange(1, 65, dtype=np.float32))))
    for one, other in zip(alone, apart, strict=True):
        np.testing.assert_array_equal(one, other)


def damped(moments):
    return moments + 0.5 * np.diag(moments).mean() * np.eye(len(moments))


def test_the_feedback_is_a_factor_of_the_moments():
    moments = (X.T @ X).astype(np.float64)
    found = feedback_of(moments.astype(np.float32)).astype(np.float64)
    np.testing.assert_array_equal(found, np.tril(found, -1))
    inverse = np.linalg.inv(found.T + np.eye(64))  # of U in U D U^T
    diagonal = inverse @ damped(moments) @ inverse.T
    np.testing.assert_allclose(diagonal, np.diag(np.diag(diagonal)), atol=1e-5 * diagonal.max())


def by_the_paper(values, moments, block, scales, zeros):
    """GPTQ's codes, with a factor of the inverse and every error spread at once."""
    factor = np.linalg.cholesky(np.linalg.inv(damped(moments))).T
    rest, codes = values.astype(np.float64), np.empty(values.shape, np.uint8)
    for at in range(len(rest)):
        scale, zero = scales[at // block].astype(np.float64), zeros[at // block].astype(np.float64)
        codes[at] = np.clip(np.rint(rest[at] / scale) + zero, 0, 15)
        error = (rest[at] - (codes[at] - zero) * scale) / factor[at, at]
        rest[at:] -= np.outer(factor[at, at:], error)
    return codes


@pytest.mark.parametrize("block", [16, 64])
def test_errors_are_fed_back_as_the_paper_says(block, rng):
    """Within a block and between blocks. The broken variant feeds nothing back."""
    weight, x = rng.standard_normal((64, 512), np.float32), X / X.std(axis=0)
    moments = (x.T @ x).astype(np.float64)
    codes, *ranges = codes4(weight.copy(), block, feedback_of(moments.astype(np.float32)))
    expected = by_the_paper(weight, moments, block, *ranges)
    assert (codes == expected).mean() > 0.999
    assert (codes == by_the_paper(weight, np.eye(64), block, *ranges)).mean() < 0.95


def test_moments_of_even_rows():
    divisors = np.linspace(0.5, 2, 64, dtype=np.float32)
    turn = rotation(64)
    even = ((X / divisors).reshape(len(X), -1, len(turn)) @ turn).reshape(X.shape)
    expected, found = even.T @ even, evened_moments(X.T @ X, divisors)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("form", ["block4", "block8"])
def test_the_operator_reads_blocks_as_they_are_unpacked(form, rng):
    for inputs in (96, 64):  # an odd number of narrow blocks, and one wide block
        weight = rng.standard_normal((24, inputs), np.float32)
        x = rng.standard_normal((1, 5, inputs), np.float32)
        store = MemoryStore()
        w = Writer(store)
        y = quantize.form_of(form)(w, "m", w.input("x", ["batch", "new", inputs]), weight)
        w.node("Identity", [y], w.output("y", ["batch", "new", 24]))
        session = open_session(w.finish(), threads=1, initializers=store.arrays)
        packed = blockwise.packed4(weight, 32) if form == "block4" else None
        packed = packed or blockwise.packed8(weight, 64 if inputs == 64 else 32)
        expected = x @ unpacked(packed, int(form[-1])).T
        found = session.run(None, {"x": x})[0]
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_wide_modules_have_8_bits(rng):
    store = MemoryStore()
    w = Writer(store)
    form = quantize.form_of("block4", wide={"down"})
    x = w.input("x", ["batch", "new", 64])
    weight = rng.standard_normal((64, 64), np.float32)  # small ones are in the graph itself
    for module in ("up", "down"):
        form(w, module, x, weight)
    assert {name for name in store.arrays if ".q" in name} == {"up.weight.q4", "down.weight.q8"}


def test_inputs_that_cannot_be_cut_stay_float32():
    store = MemoryStore()
    w = Writer(store)
    quantize.form_of("block4")(w, "m", w.input("x", [1, "new", 40]), WEIGHT[:, :40])
    assert {array.dtype for array in store.arrays.values()} == {np.dtype(np.float32)}


def test_zeros_stay_zeros():
    zeros = np.zeros((4, 32), np.float32)
    values, scales = int8.int8_columns(zeros)
    assert not values.any()
    assert np.isfinite(scales).all()
    assert not unpacked(blockwise.packed8(zeros, 32), 8).any()
    assert not unpacked(blockwise.packed4(zeros, 32), 4).any()


def test_parts_give_the_same_as_the_whole(monkeypatch):
    weight = WEIGHT.astype(ml_dtypes.bfloat16)

    def made():
        packed = blockwise.packed8(weight, 32)
        transposed = quantize.transposed(weight, np.float32)
        return (*int8.int8_columns(weight), packed.codes, packed.scales, transposed)

    whole = made()
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1000)
    for one, other in zip(whole, made(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole[-1], weight.astype(np.float32).T)


@pytest.mark.parametrize(("form", "inputs"), [("block4", 640), ("block8", 640), ("block8", 1536)])
def test_rows_among_others_are_as_alone(form, inputs, rng):
    """Bit for bit: a rounding of the operator's would become another code in the next linear."""
    weight = rng.standard_normal((96, inputs), np.float32)
    x = rng.standard_normal((16, 1, inputs), np.float32)
    store = MemoryStore()
    w = Writer(store)
    y = quantize.form_of(form)(w, "m", w.input("x", ["batch", "new", inputs]), weight)
    w.node("Identity", [y], w.output("y", ["batch", "new", 96]))
    session = open_session(w.finish(), threads=1, initializers=store.arrays)
    alone = np.concatenate([session.run(None, {"x": x[row : row + 1]})[0] for row in range(16)])
    for rows in (2, 3, 8, 16):
        np.testing.assert_array_equal(session.run(None, {"x": x[:rows]})[0], alone[:rows])


@pytest.mark.parametrize("size", [1e-12, 1e-5, 1.0, 1e12])
def test_scales_that_float16_does_not_hold_are_float32(size):
    """The broken variant is float16 for all: nothing is left of small weights, or infinity."""
    weight, narrow = WEIGHT * np.float32(size), size == 1.0
    for packed, bits, most in (
        (blockwise.packed8(weight, 32), 8, 0.01),
        (blockwise.packed4(weight, 32), 4, 0.12),
    ):
        assert (packed.scales.dtype == np.float16) == narrow
        error = unpacked(packed, bits) / np.float32(size) - WEIGHT
        assert np.sqrt(np.square(error).mean()) < most
