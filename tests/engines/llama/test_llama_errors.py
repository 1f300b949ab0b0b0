"""The table "With GGUF models" of docs/errors.md: each row happens, and has its code."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llama_cases import TRUTH, base_file

import lorakit
from lorakit.adapter import Adapter, Delta
from lorakit.errors import LorakitError
from lorakit.files.gguf import open_gguf
from lorakit.files.gguf_write import write_gguf_file

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"
ROW = re.compile(r"^\| ([a-z ]+) \| `(\w+)` \|", re.MULTILINE)


@pytest.fixture
def model():
    with lorakit.open(base_file("llama"), threads=1, max_batch=2) as model:
        yield model


def delta(module, n_in=64, n_out=64):
    a, b = np.ones((2, n_in), np.float32), np.ones((n_out, 2), np.float32)
    return Adapter(deltas=(Delta(module=module, a=a, b=b, scale=1.0),))


def half(path):
    file = open_gguf(TRUTH / "gguf" / "llama.plain.f32.gguf")
    tensors = {name: tensor.array() for name, tensor in file.tensors.items()}
    del tensors["blk.0.attn_q.weight.lora_b"]
    with path.open("wb") as out:
        write_gguf_file(out, file.values, tensors)
    return path


def cut(path):
    path.write_bytes(base_file("llama").read_bytes()[:5000])
    return path


def cancelled(model):
    stream = model.stream([1, 5, 6], max_tokens=100, ignore_eos=True)
    next(stream)
    stream.cancel()
    stream.result(30)


def closed(model):
    model.close()
    model.complete([1])


Q = "self_attn.q_proj"
SITUATIONS = {
    "file not found": lambda m, tmp: m.load_adapter(tmp / "no-such-folder"),
    "not an adapter": lambda m, tmp: m.load_adapter(base_file("llama"), "a"),
    "a broken model": lambda m, tmp: lorakit.open(cut(tmp / "base.gguf")),
    "wrong architecture": lambda m, tmp: m.load_adapter(TRUTH / "peft" / "gemma3" / "plain", "a"),
    "missing module": lambda m, tmp: m.load_adapter(delta(f"model.layers.9.{Q}"), "a"),
    "shape": lambda m, tmp: m.load_adapter(delta(f"model.layers.0.{Q}", n_in=96), "a"),
    "half pair": lambda m, tmp: m.load_adapter(half(tmp / "half.gguf"), "a"),
    "unsupported tensor": lambda m, tmp: m.load_adapter(TRUTH / "peft" / "llama" / "dora", "a"),
    "context full": lambda m, tmp: m.complete([5] * 300),
    "cancelled": lambda m, tmp: cancelled(m),
    "closed": lambda m, tmp: closed(m),
}


def rows():
    return dict(ROW.findall(PAGE.read_text(encoding="utf-8").split("## With GGUF models")[1]))


def test_the_table_lists_what_is_tested():
    assert set(rows()) == {*SITUATIONS, "out of memory"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_it_has_its_code_and_leaves_the_model_as_it_was(name, model, tmp_path):
    with pytest.raises(LorakitError) as caught:
        SITUATIONS[name](model, tmp_path)
    assert caught.value.code == rows()[name], str(caught.value)
    if name != "closed":
        assert model.adapters == ()
        assert model.complete([1, 5], max_tokens=1, ignore_eos=True).tokens


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize(
    ("room", "found"), [((), rows()["out of memory"]), ((2 << 30,), "room enough")]
)
def test_out_of_memory_has_its_code_and_leaves_the_engine_as_it_was(room, found):
    script = Path(__file__).with_name("short_of_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), *map(str, room)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[0] == found, done.stderr
    assert done.returncode == 0, done.stderr
