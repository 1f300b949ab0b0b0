"""Every hostile file is refused, in a process of its own, by code and by name, with little memory.

`python tests/hostile/make.py --report` prints what each one took. The bound is on the CPU's time,
which a busy machine does not stretch; one that hangs is found by make.py.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import gguf_cases
import mlx_cases
import ort_cases
import web_cases
from cases import CASES, folder
from make import Child, write

from lorakit.formats import read_adapter

SECONDS = 10.0
MEMORY = 100 << 20  # bytes, at the peak

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and permissions are POSIX's")


@pytest.fixture(scope="module")
def child():
    process = Child()
    yield process
    process.close()


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # some are opened without privileges
        yield Path(name)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_it_is_refused(case, child, place):
    try:
        path = write(case, place)
    except OSError as error:
        pytest.skip(f"this system cannot hold such a file: {error}")
    found = child.open(case.name, path, case.opens)
    assert found["code"] in case.code.split("|"), found
    assert case.words in found["text"]
    assert case.name in found["text"] or case.opens == "fit" or "config.json" in found["text"]
    assert all(line.isprintable() for line in found["text"].split("\n"))
    assert found["seconds"] < SECONDS
    assert found["bytes"] < MEMORY


WRITERS = {
    "peft": (folder, "adapter_model.safetensors"),
    "mlx": (mlx_cases.folder, "adapters.safetensors"),
    "gguf": (lambda path: gguf_cases.write(path, gguf_cases.packed()), ""),
    "ort": (lambda path: ort_cases.write(path, ort_cases.good()), ""),
    "web": (lambda path: web_cases.write(path, *web_cases.good()), ""),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_the_cases_are_made_from_is_read_and_outlives_its_file(name, tmp_path):
    """A mapped file that is shortened kills its reader; small ones are not mapped."""
    make, weights = WRITERS[name]
    make(tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter")
    with (tmp_path / "adapter" / weights).open("r+b") as file:
        file.truncate(0)
    assert adapter.max_rank == 4
    assert all(np.isfinite(array).all() for d in adapter.deltas for array in (d.a, d.b))
