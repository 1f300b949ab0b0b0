"""Weights on their way into a graph: their files do not stay in memory."""

import sys

import numpy as np
import pytest

from lorakit.graph import weights
from lorakit.graph.weights import transposed
from resident import resident

ROWS, COLUMNS = 2048, 512
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads its own memory from /proc")


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A weight of 4 MB in a mapped file, and that file."""
    path = tmp_path / "weight"
    np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32).tofile(path)
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1 << 19)
    return np.asarray(np.memmap(path, np.float32, mode="r", shape=(ROWS, COLUMNS))), path


def test_parts_leave_memory_once_they_are_read(mapped, monkeypatch):
    """The broken variant keeps every page."""
    weight, path = mapped
    expected = weight.T.copy()
    np.testing.assert_array_equal(transposed(weight, np.float32), expected)
    assert resident(path) < 1024  # pages beside those that are read come with them
    monkeypatch.setattr(weights, "release", lambda array: None)
    np.testing.assert_array_equal(transposed(weight, np.float32), expected)
    assert resident(path) > 4000
