"""Every hostile folder is refused quickly, without much memory, by code and by name."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from lorakit.errors import LorakitError
from lorakit.formats import read_adapter

sys.path.insert(0, str(Path(__file__).parent.parent / "hostile"))
from make import EXPECTED, folder

MEMORY = 100 << 20  # bytes of Python objects while reading


def test_the_folder_that_the_others_are_made_from_is_read(tmp_path):
    folder(tmp_path / "good")
    assert read_adapter(tmp_path / "good").max_rank == 4


@pytest.mark.parametrize("write", EXPECTED, ids=lambda write: write.__name__)
def test_it_is_refused(write, tmp_path):
    path = tmp_path / "adapter"
    try:
        write(path)
    except OSError as error:
        pytest.skip(f"this system cannot hold such a folder: {error}")
    code, named = EXPECTED[write]
    tracemalloc.start()
    try:
        with pytest.raises(LorakitError) as caught:
            read_adapter(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == code
    assert named in str(caught.value)
    assert str(path) in str(caught.value) or "adapter_config.json" in str(caught.value)
    assert peak < MEMORY
