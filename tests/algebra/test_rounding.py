"""Training told apart from rounding: bases and fine-tunes in other dtypes."""

import json
from importlib import import_module

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit import demo
from lorakit.algebra import extract, rounding
from lorakit.base.folder import Base

BF16, F16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
DTYPES = [(F16, BF16), (BF16, F16), (F32, BF16), (BF16, F32), (F32, F16), (F16, F32)]
Q = "self_attn.q_proj"


def stored(folder, weights, dtype):
    config = json.loads((demo.base_path() / "config.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: w.astype(dtype) for n, w in weights.items()}, folder / "model.safetensors")
    return Base.open(folder)


@pytest.fixture(scope="module")
def weights():
    """The demo's, with noise far below any 16-bit step, so that every dtype has to round."""
    rng, base = np.random.default_rng(0), Base.open(demo.base_path())
    return {
        name: (t.astype(np.float64) * (1 + rng.standard_normal(t.shape) / 64)).astype(np.float32)
        for name, t in base.tensors.items()
    }


def tuned(weights, size=0.02):
    rng, found = np.random.default_rng(1), dict(weights)
    for name, value in weights.items():
        if Q in name:
            out, n_in = value.shape
            change = rng.standard_normal((out, 2)) @ rng.standard_normal((2, n_in))
            found[name] = value + (size * change).astype(np.float32)
    return found


@pytest.mark.parametrize(("one", "other"), DTYPES, ids=lambda d: d.name)
def test_only_what_was_trained_is_extracted(tmp_path, weights, one, other):
    base = stored(tmp_path / "base", weights, one)
    model = stored(tmp_path / "tuned", tuned(weights), other)
    adapter, report = extract(base, model, rank=4)
    assert adapter.modules
    assert all(Q in module for module in adapter.modules)
    assert len(adapter.modules) == len(base.decoder.layers)
    assert adapter.replacements == ()
    assert any("differ by rounding to" in note for note in report.notes)


@pytest.mark.parametrize(("one", "other"), DTYPES, ids=lambda d: d.name)
def test_an_exact_comparison_would_find_every_matrix(tmp_path, monkeypatch, weights, one, other):
    """The broken variant of the test above."""
    base = stored(tmp_path / "base", weights, one)
    model = stored(tmp_path / "tuned", tuned(weights), other)

    def exactly(before, after):
        return not np.array_equal(before, after)

    monkeypatch.setattr(import_module("lorakit.algebra.extract"), "trained", exactly)
    adapter, _ = extract(base, model, rank=4)
    assert len(adapter.modules) > 4 * len(base.decoder.layers)


def test_training_by_less_than_a_step_of_the_base_is_training():
    """A base in bfloat16, its tune in float32: every value moves by a tenth of what one holds."""
    rng = np.random.default_rng(2)
    before = rng.uniform(1.1, 1.9, (300, 200)).astype(BF16)
    step = 2.0**-7
    moved = rng.uniform(-step / 8, step / 8, (300, 200)).astype(np.float32)
    one = before.astype(np.float32) + moved
    np.testing.assert_array_equal(one.astype(BF16), before)
    assert rounding.trained(before, one)
    assert not rounding.trained(before, before.astype(np.float32))
    original = rng.uniform(1, 1.9, (300, 200)).astype(np.float32)
    assert not rounding.trained(original.astype(BF16), original)


def test_zeros_that_were_trained_are_training():
    zeros = np.zeros((8, 8), np.float16)
    assert rounding.trained(zeros, np.full((8, 8), 1e-4, BF16))
    assert not rounding.trained(zeros, zeros.astype(BF16))


@pytest.mark.parametrize("dtype", [F16, BF16, F32, np.dtype(np.float64)], ids=lambda d: d.name)
def test_steps_are_the_distance_of_neighbours(dtype):
    values = np.array([1.0, 1.5, 3.0, 1e-3, 1e-7, 0.0, -2.0], dtype)
    whole = values.view(np.dtype(f"u{dtype.itemsize}"))
    neighbours = (whole + 1).view(dtype)  # the next number away from zero
    apart = np.abs(neighbours.astype(np.float64) - values.astype(np.float64))
    np.testing.assert_array_equal(rounding.steps(values), apart)


def test_a_residual_of_rounding_is_named(tmp_path, weights):
    base = stored(tmp_path / "base", weights, F32)
    _, report = extract(base, stored(tmp_path / "t", tuned(weights, 0.002), BF16), rank=4)
    assert report.residual > 0.01
    assert any("the rounding of bfloat16 explains" in note for note in report.notes)
    _, report = extract(base, stored(tmp_path / "u", tuned(weights, 0.002), F32), rank=4)
    assert report.notes == ()
