"""Quantising with llama.cpp: the files load and are close, and faults are reported."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from llama_cases import TRUTH, base_file, logits_of

from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.quantize import TYPES, quantize
from lorakit.errors import (
    EngineError,
    FormatError,
    ParameterError,
    SourceError,
    UnsupportedError,
    WriteError,
)

BASE = base_file("gemma3")
TOKENS = np.array([1, 5, 30, 70, 200, 400, 17], np.int64)


def logits(path):
    options = LlamaOptions(threads=1, context=64)
    engine = LlamaEngine(open_gguf_base(path), options)
    found = logits_of(engine, TOKENS)
    engine.close()
    return found


def test_q8_0_is_close_and_reports_progress(tmp_path):
    steps = []
    done = quantize(
        BASE, tmp_path / "q.gguf", type="q8_0", threads=1, progress=lambda *step: steps.append(step)
    )
    assert done.type == "Q8_0"
    assert done.bytes_after == (tmp_path / "q.gguf").stat().st_size < done.bytes_before
    assert done.fallbacks == ()
    assert [at for at, _, _ in steps] == list(range(1, steps[0][1] + 1))
    assert "token_embd.weight" in {name for _, _, name in steps}
    difference = np.abs(logits(done.path) - logits(BASE)).max()
    assert 0 < difference < 0.1
    with pytest.raises(UnsupportedError, match="already quantised"):
        quantize(done.path, tmp_path / "again.gguf", type="Q4_0")
    assert [file.name for file in tmp_path.iterdir()] == ["q.gguf"]


def test_fallbacks_for_odd_row_lengths_are_listed(tmp_path):
    done = quantize(BASE, tmp_path / "q.gguf", type="Q4_K_M", threads=1)
    assert ("blk.0.attn_q.weight", 64, "q4_K", "q5_0") in done.fallbacks
    assert np.isfinite(logits(done.path)).all()


def test_the_error_for_an_unknown_type_lists_the_known_ones(tmp_path):
    with pytest.raises(ParameterError) as caught:
        quantize(BASE, tmp_path / "q.gguf", type="Q7")
    assert caught.value.items == tuple(TYPES)


def test_sources_that_are_not_models_are_refused(tmp_path):
    (tmp_path / "noise.gguf").write_bytes(b"noise" * 100)
    (tmp_path / "cut.gguf").write_bytes(BASE.read_bytes()[:20_000])
    out = tmp_path / "out.gguf"
    for source, kind, words in [
        (tmp_path / "missing.gguf", SourceError, "no file"),
        (tmp_path / "noise.gguf", FormatError, "not a GGUF file"),
        (tmp_path / "cut.gguf", FormatError, "cut.gguf"),
        (TRUTH / "gguf" / "gemma3.plain.f32.gguf", UnsupportedError, "adapter"),
    ]:
        with pytest.raises(kind, match=words):
            quantize(source, out, type="Q8_0")
    assert not out.exists()


def test_the_error_holds_llama_cpps_own_reason(tmp_path):
    source = tmp_path / "odd.gguf"
    source.write_bytes(BASE.read_bytes().replace(b"gemma3", b"gemmaX"))
    with pytest.raises(EngineError, match="gemmaX"):
        quantize(source, tmp_path / "out.gguf", type="Q8_0")
    assert [file.name for file in tmp_path.iterdir()] == ["odd.gguf"]


def test_an_existing_output_is_kept(tmp_path):
    (tmp_path / "q.gguf").write_bytes(b"mine")
    with pytest.raises(WriteError, match="exists"):
        quantize(BASE, tmp_path / "q.gguf", type="Q8_0")
    assert (tmp_path / "q.gguf").read_bytes() == b"mine"


def test_a_full_disk_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(WriteError, match="disk full"):
            quantize(BASE, tmp_path / "q.gguf", type="Q8_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_the_work_and_leaves_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; import time\n"
        "from lorakit.engines.llama.quantize import quantize\n"
        "def wait(*_): print('step', flush=True); time.sleep(60)\n"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), type='Q8_0', progress=wait)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(BASE), str(tmp_path / "q.gguf")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "step\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=100)
    assert "KeyboardInterrupt" in errors
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path):
    def lorakit(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "lorakit", "quantize", *map(str, arguments)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    done = lorakit(BASE, tmp_path / "q.gguf", "--type", "Q4_K_M")
    assert "tensors took q5_0, as q4_K does not divide their rows" in done.stdout, done.stderr
    failed = lorakit(BASE, tmp_path / "q.gguf", "--type", "nope", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["code"] == "parameter_invalid"
