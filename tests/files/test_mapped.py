"""Pages of mapped files are given back, and come back by themselves."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from lorakit.files.bounded import load
from lorakit.files.mapped import release


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("given_back", [True, False])
def test_what_was_read_of_a_mapped_file_takes_no_memory(tmp_path, given_back):
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * (256 << 10))  # 64 MB
    array = load(path)[1000:-1000]
    before = resident()
    total = int(array.sum())
    if given_back:
        release(array[5000:-5000].reshape(2, -1).T)
    held = resident() - before
    assert held < 8 << 20 if given_back else held > 48 << 20
    assert int(array.sum()) == total


@pytest.mark.parametrize("array", [np.ones(5), np.ones((3, 4)).T, np.ones(3)[::-1], np.ones(0)])
def test_other_arrays_are_left_alone(array):
    before = array.copy()
    release(array)
    assert np.array_equal(array, before)


def test_views_of_any_shape_are_given_back_and_can_be_read(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(np.arange(10 << 20, dtype=np.float32).tobytes())
    array = load(path).view(np.float32)
    views = (array, array[7:9], array[::-1], array.reshape(-1, 64)[:, 3:5], array[:0])
    for view in (*views, array.view(np.uint8)[-1:]):
        release(view)
    assert np.array_equal(array, np.arange(10 << 20, dtype=np.float32))
