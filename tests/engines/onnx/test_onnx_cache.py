"""Built graphs on disk: reused, rebuilt where broken, shared by processes, never required."""

import errno
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from lorakit.engines.onnx import graph_cache as graphs
from lorakit.files.cache import cache_root
from lorakit.graph import FileStore
from onnx_cases import logits_of, open_engine, truth_base

IDS = np.arange(4, 24)
OPEN = """
import sys
from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
print("ready", flush=True)
sys.stdin.readline()
OnnxEngine.open(Base.open(sys.argv[1]), OnnxOptions(threads=1)).close()
"""


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def expected():
    engine = open_engine(truth_base("gemma3"))
    logits = logits_of(engine, IDS)
    engine.close()  # what is mapped cannot be damaged or replaced everywhere
    return logits


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


def truncated(file):
    os.truncate(file, file.stat().st_size // 2)


def flipped(file):
    """One bit, in the middle; size and time of writing as before."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def gone(file):
    file.unlink()


@pytest.mark.parametrize("damage", [truncated, flipped, gone])
@pytest.mark.parametrize("broken", ["weights.bin", "model.onnx", "manifest.json"])
def test_a_damaged_entry_is_rebuilt(expected, caplog, broken, damage):
    (entry,) = entries()
    content = {file.name: file.read_bytes() for file in entry.iterdir()}
    damage(entry / broken)
    check(expected)
    assert len(caplog.records) == 1
    assert "building it anew" in caplog.text
    assert {file.name: file.read_bytes() for file in entry.iterdir()} == content


def test_an_entry_in_anothers_place_is_rebuilt(expected, caplog):
    """As it was written, but for other options: a window read otherwise, say."""
    (entry,) = entries()
    open_engine(truth_base("gemma3"), quantize="int8").close()
    (other,) = set(entries()) - {entry}
    wrong = other.rename(other.with_name("away"))
    entry.rename(other)
    wrong.rename(entry)
    check(expected)
    assert "building it anew" in caplog.text
    assert "of other options" in caplog.text


def test_every_single_flipped_bit_of_the_weights_would_be_seen(expected):
    """The digest is over all blocks, and over their order."""
    (entry,) = entries()
    file = entry / "weights.bin"
    content = file.read_bytes()
    seen = {graphs.blocks_digest_of(file)}
    for at in np.linspace(0, len(content) - 1, 20).astype(int):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        seen.add(graphs.blocks_digest_of(file))
    assert len(seen) == 21


def test_sizes_alone_would_take_other_weights(expected, monkeypatch):
    """The broken variant: the check that was there before, and another answer in silence."""
    (entry,) = entries()
    weights = entry / "weights.bin"
    content = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    content[3::4] ^= 0x80  # the sign of every float
    weights.write_bytes(content.tobytes())
    monkeypatch.setattr(graphs, "_require", lambda folder, expected: None)
    engine = open_engine(truth_base("gemma3"))
    assert not np.array_equal(logits_of(engine, IDS), expected)
    engine.close()


def test_an_entry_of_a_reader_alone_opens_from_memory_where_it_is_damaged(expected, monkeypatch):
    """A cache that may be read but not written, with damage that cannot be healed."""
    (entry,) = entries()
    flipped(entry / "weights.bin")
    monkeypatch.setattr(graphs.shutil, "rmtree", lambda *args, **options: None)
    check(expected)


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


KILLED = """
import os, sys
from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.graph import FileStore
def put(self, name, array):
    self._file.write(b"half")
    self._file.flush()
    os.kill(os.getpid(), 9)
FileStore.put = put
OnnxEngine.open(Base.open(sys.argv[1]), OnnxOptions(threads=1))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_what_a_killed_build_left_is_swept_by_the_next(expected):
    before = entries()
    command = [sys.executable, "-c", KILLED, str(truth_base("llama"))]
    assert subprocess.run(command).returncode == -9
    assert len(entries()) == 2
    open_engine(truth_base("llama")).close()
    after = entries()
    assert set(before) < set(after)
    assert not any(path.name.startswith(".") for path in after)


def test_importing_the_engine_does_not_import_onnxruntime():
    code = "import sys, lorakit.engines.onnx.engine; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_telemetry_is_off_before_onnxruntime_is_imported():
    code = (
        "import os, sys\n"
        "from lorakit.engines.onnx.ort import onnxruntime\n"
        "onnxruntime()\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1' and 'onnxruntime' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
