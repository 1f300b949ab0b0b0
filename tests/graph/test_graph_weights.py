"""Weights on their way into a graph: their files do not stay in memory."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.files import bounded
from lorakit.files.safetensors import open_safetensors
from lorakit.graph import weights
from lorakit.graph.weights import transposed
from resident import resident

ROWS, COLUMNS = 2048, 512
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads its own memory from /proc")


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A weight of 4 MB in a mapped file, and that file."""
    path = tmp_path / "model.safetensors"
    array = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    save_file({"weight": array}, path)
    monkeypatch.setattr(bounded, "MAX_READ", 1 << 10)
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1 << 19)
    return open_safetensors(path).tensors["weight"], path


def test_parts_leave_memory_once_they_are_read(mapped, monkeypatch):
    """The broken variant keeps every page."""
    weight, path = mapped
    expected = weight.T.copy()
    np.testing.assert_array_equal(transposed(weight, np.float32), expected)
    assert resident(path) < 1024  # pages beside those that are read come with them
    monkeypatch.setattr(weights, "release", lambda array: None)
    np.testing.assert_array_equal(transposed(weight, np.float32), expected)
    assert resident(path) > 4000
