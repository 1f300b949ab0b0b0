"""A merge that is broken off, or finds no room, leaves nothing behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest

from folders import DATA
from lorakit.algebra.extract import extract
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.errors import CapabilityError, SourceError, WriteError
from lorakit.formats import read_adapter
from lorakit.merge import merge

LLAMA, GGUF = DATA / "truth/bases/llama", DATA / "truth/gguf/llama.base.f32.gguf"
ADAPTER = DATA / "truth/peft/llama/plain"


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def plain():
    return [(read_adapter(ADAPTER), 1.0)]


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
@pytest.mark.parametrize("source", [LLAMA, GGUF], ids=["folder", "gguf"])
@pytest.mark.parametrize("kind", ["reserved", "unreserved"])
def test_a_disk_that_fills_up_leaves_nothing(kind, source, tmp_path):
    """The limit on a file's size makes the system itself refuse, as a full disk does."""
    unreserved = "import os; del os.posix_fallocate" if kind == "unreserved" else ""
    code = f"""
import resource, signal
{unreserved}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from lorakit.algebra.extract import extract
from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from lorakit.base.gguf import open_base
from lorakit.merge import merge, unmerge
base, adapter = open_base({str(source)!r}), read_adapter(Path({str(ADAPTER)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
merge(base, [(adapter, 1.0)], Path({str(tmp_path / "out")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert "WriteError: cannot write" in done.stderr, done.stderr
    assert left(tmp_path) == []


def test_no_room_is_known_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(WriteError, match="no room") as caught:
        merge(Base.open(LLAMA), plain(), tmp_path / "deep/out")
    assert "bytes needed, 1 bytes free" in caught.value.items[0]
    assert left(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("source", [LLAMA, GGUF], ids=["folder", "gguf"])
def test_ctrl_c_in_the_middle_leaves_nothing(source, tmp_path):
    """The child says that it is in the middle, waits there, and gets the signal."""
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from lorakit.algebra.extract import extract
from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from lorakit.base.gguf import open_base
from lorakit.merge import merge, unmerge
def progress(done, total):
    if done > total // 2:
        print("middle", flush=True)
        time.sleep(60)
merge(
    open_base({str(source)!r}),
    [(read_adapter(Path({str(ADAPTER)!r})), 1.0)],
    Path({str(tmp_path / "out")!r}),
    progress=progress,
)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "middle\n"
    assert any(name.endswith(".tmp") for name in left(tmp_path))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=50)
    assert "KeyboardInterrupt" in err
    assert left(tmp_path) == []


def test_a_base_that_shrinks_meanwhile_is_an_error_and_not_a_crash(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(LLAMA, folder)
    base = Base.open(folder)
    os.truncate(folder / "model.safetensors", 100_000)
    with pytest.raises(SourceError, match="shorter"):
        merge(base, plain(), tmp_path / "out")
    assert left(tmp_path) == ["base"]


def test_systems_without_positioned_reads_write_the_same(tmp_path, monkeypatch):
    merge(Base.open(LLAMA), plain(), tmp_path / "one")
    monkeypatch.setattr("lorakit.merge.files._POSITIONED", False)
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    merge(Base.open(LLAMA), plain(), tmp_path / "two")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_write_that_a_flush_on_the_way_lost_is_an_error(tmp_path, monkeypatch):
    flushes = []

    def fsync(handle):
        flushes.append(handle)
        if len(flushes) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("lorakit.merge.files.FLUSH", 1)
    monkeypatch.setattr("lorakit.merge.files.os.fsync", fsync)
    with pytest.raises(WriteError, match="Input/output"):
        merge(Base.open(LLAMA), plain(), tmp_path / "out")
    assert left(tmp_path) == []


def test_a_base_that_became_something_else_is_an_error_and_not_a_crash(tmp_path):
    folder = shutil.copytree(LLAMA, tmp_path / "base")
    base = Base.open(folder)
    for content in (b"", b"\xff" * 64, b"\x02" + bytes(7) + b"[]"):
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / "model.safetensors")
        with pytest.raises(SourceError, match="changed since"):
            merge(base, plain(), tmp_path / "out")


def test_what_reads_weights_in_place_says_how_to_make_a_folder_of_a_gguf_file():
    base = open_base(GGUF)
    with pytest.raises(CapabilityError, match="GGUF file") as caught:
        extract(base, base, 4)
    assert "lorakit merge" in str(caught.value.hint)
