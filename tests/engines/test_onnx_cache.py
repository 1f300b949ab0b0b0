"""Built graphs on disk: reused, rebuilt where broken, shared by processes, never required."""

import errno
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from onnx_cases import logits_of, open_engine, truth_base

from lorakit.cache import cache_root
from lorakit.engines import graphs
from lorakit.graph import FileStore

IDS = np.arange(4, 24)
OPEN = """
import sys
from lorakit.base import Base
from lorakit.engines.onnx import OnnxEngine
from lorakit.engines.protocol import EngineOptions
print("ready", flush=True)
sys.stdin.readline()
OnnxEngine.open(Base.open(sys.argv[1]), EngineOptions(threads=1)).close()
"""


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def expected():
    engine = open_engine(truth_base("gemma3"))
    yield logits_of(engine, IDS)
    engine.close()


def entries():
    return sorted((cache_root() / "graphs").iterdir())


def check(expected):
    engine = open_engine(truth_base("gemma3"))
    np.testing.assert_array_equal(logits_of(engine, IDS), expected)
    engine.close()


def test_second_opening_builds_nothing(expected, monkeypatch):
    assert len(entries()) == 1
    monkeypatch.setattr(graphs, "build", lambda *_: pytest.fail("built again"))
    check(expected)


def test_options_that_change_the_graph_have_their_own_entry(expected):
    open_engine(truth_base("gemma3"), quantize="int8").close()
    assert len(entries()) == 2


@pytest.mark.parametrize("broken", ["weights.bin", "model.onnx", "manifest.json"])
def test_truncated_entry_is_rebuilt(expected, broken):
    (entry,) = entries()
    file = entry / broken
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    check(expected)
    assert graphs._whole(entry)


def test_garbage_in_the_model_is_rebuilt(expected, caplog):
    (entry,) = entries()
    file = entry / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(b"\xff" * len(content))
    check(expected)
    assert "building it anew" in caplog.text
    assert file.read_bytes() == content


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_or_read_only_disk_opens_from_memory(monkeypatch, caplog, number):
    def full(self, name, array):
        raise OSError(number, "no")

    monkeypatch.setattr(FileStore, "put", full)
    with caplog.at_level(logging.WARNING, "lorakit"):
        engine = open_engine(truth_base("gemma3"))
    assert "holding it in memory" in caplog.text
    found = logits_of(engine, IDS)
    engine.close()
    assert entries() == []  # nothing half-written
    monkeypatch.undo()
    check(found)


def test_cache_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file"))
    engine = open_engine(truth_base("llama"))
    assert logits_of(engine, IDS).shape == (20, 512)
    engine.close()


def test_two_processes_build_at_once(expected):
    before = entries()
    for path in before:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    command = [sys.executable, "-c", OPEN, str(truth_base("gemma3"))]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
        assert racer.returncode == 0
    assert entries() == before
    check(expected)


def test_a_killed_build_is_swept_away_after_a_day(expected):
    old, new = (cache_root() / "graphs" / f".{name}.abc" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"half")
    os.utime(old, (0, 0))
    open_engine(truth_base("llama")).close()
    assert new.exists()
    assert not old.exists()


def test_importing_the_engine_does_not_import_onnxruntime():
    code = "import sys, lorakit.engines.onnx; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_telemetry_is_off_before_onnxruntime_is_imported():
    code = (
        "import os, sys\n"
        "from lorakit.engines.session import onnxruntime\n"
        "onnxruntime()\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1' and 'onnxruntime' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
