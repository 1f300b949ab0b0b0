"""A stream holds some pieces of a model, however large that is."""

import subprocess
import sys

import pytest

from gguf_bases import SHAPE, make_base

# 210 MB in float32, the largest tensor 31; its file is mapped.
CONFIG = SHAPE | {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 7680,
    "num_hidden_layers": 2,
    "tie_word_embeddings": True,
}
CODE = """
import sys
from pathlib import Path
from lorakit.base.folder import Base
from lorakit.exporting.gguf import gguf_model, write_gguf
from lorakit.files import gguf_stream
from lorakit.merge.gguf import tensors
folder, out, form, kept = sys.argv[1:]
if kept == "kept":
    gguf_stream.release = tensors.release = lambda array: None
def peak():
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) // 1024
model = gguf_model(Base.open(folder), name="m", templates={})
before = peak()
write_gguf(model, Path(out), form, threads=2)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("large") / "base", CONFIG)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("form", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("pages", ["given back", "kept"])
def test_memory_holds_some_pieces_and_not_the_model(large, tmp_path, form, pages):
    out = tmp_path / "m.gguf"
    command = [sys.executable, "-c", CODE, str(large), str(out), form, pages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    out.unlink()
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    assert grown < 60 if pages == "given back" else grown > 120
