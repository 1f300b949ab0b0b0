"""What differs from system to system, decided by what a system answers and not by its name."""

import errno
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from lorakit import children
from lorakit.cli import doctor, make_utf8
from lorakit.engines import cpu
from lorakit.errors import BaseModelError, WriteError
from lorakit.files.cache import in_spare_place
from lorakit.merge import files
from lorakit.sources import bundle
from lorakit.sources.store import LONGEST, Store, safe_name


@pytest.mark.parametrize("name", ["model.gguf", "a b.safetensors", "model-00001-of-2.safetensors"])
def test_a_good_name_of_a_download_stays(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["con", "NUL.gguf", "a:b.gguf", "a?.gguf", "x" * 300 + ".gguf", "end. ", "", "..", "ü.gguf"],
)
def test_every_system_takes_the_name_of_a_download(name):
    safe = safe_name(name)
    assert re.fullmatch(r"[\w.+=@ -]{1,80}", safe, re.ASCII)
    assert safe[-1] not in " ."
    assert safe.partition(".")[0].lower() not in ("con", "nul")
    if name.endswith(".gguf"):
        assert safe.endswith(".gguf")


def test_long_names_that_end_alike_stay_two():
    ends = "x" * 200 + ".gguf"
    assert safe_name("a" + ends) != safe_name("b" + ends)
    assert len(safe_name("a" + ends)) == LONGEST


@pytest.mark.parametrize(
    "names", [("a.safetensors", "A.safetensors"), ("x" * 90 + ".safetensors", "b.safetensors")]
)
def test_shards_that_some_file_system_takes_for_one_are_refused(names, tmp_path):
    index = tmp_path / bundle.INDEX
    index.write_text(json.dumps({"weight_map": {n: n for n in names}}), "utf-8")
    with pytest.raises(BaseModelError, match="no weight files"):
        bundle._shards(index, "somewhere")
    index.write_text(json.dumps({"weight_map": {"a": names[1], "b": "c.safetensors"}}), "utf-8")
    if len(names[1]) < 80:
        assert len(bundle._shards(index, "somewhere")) == 2


def test_without_hard_links_a_file_is_copied_and_none_is_written_over(cache, monkeypatch):
    def refuse(source, target):
        if Path(target).exists():
            raise FileExistsError(errno.EEXIST, "there is one", str(target))
        raise OSError(errno.EPERM, "no links here", str(target))

    monkeypatch.setattr(os, "link", refuse)
    store = Store()
    blobs = {}
    for name in ("a", "b"):
        blobs[name] = store.blob(name * 64)
        blobs[name].parent.mkdir(parents=True, exist_ok=True)
        blobs[name].write_bytes(name.encode())
    tree = store.tree("somewhere", blobs)
    assert (tree / "a").read_bytes() == b"a"
    monkeypatch.setattr("lorakit.sources.store.safe_name", lambda name: f"{name:.1}")
    monkeypatch.setattr(Path, "__truediv__", one_case(Path.__truediv__))
    with pytest.raises(WriteError, match="two files of one name"):
        store.tree("elsewhere", {"A": blobs["a"], "a": blobs["b"]})


def one_case(real):
    """A file system that takes A and a for the same."""
    return lambda folder, name: real(folder, "a" if name == "A" else name)


@pytest.mark.parametrize("positioned", [True, False])
def test_no_call_moves_more_at_once_than_every_system_allows(tmp_path, monkeypatch, positioned):
    sizes = []

    def counted(function):
        def call(handle, data, *rest):
            sizes.append(
                data
                if isinstance(data, int)
                else memoryview(data[0] if isinstance(data, list) else data).nbytes
            )
            return function(handle, data, *rest)

        return call

    monkeypatch.setattr(files, "_POSITIONED", positioned and files._POSITIONED)
    monkeypatch.setattr(files, "AT_ONCE", 10)
    for name in ("preadv", "pwrite", "read", "write"):
        if hasattr(os, name):
            monkeypatch.setattr(files.os, name, counted(getattr(os, name)))
    data = np.arange(64, dtype=np.uint8)
    with files.Target(tmp_path / "a", 64) as target:
        target.write(memoryview(data), 0)
    source = files.Source(tmp_path / "a")
    found = np.zeros(64, np.uint8)
    source.read(memoryview(found), 0)
    source.close()
    assert found.tolist() == data.tolist()
    assert max(sizes) <= 10
    assert len(sizes) >= 14


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags : fpu avx2 amx_int8\n", ["avx2", "amx_int8"]),
        ("Features : fp asimd asimddp i8mm\n", ["asimddp", "i8mm"]),
        ("Features : fp asimd\n", ["none of those that matter"]),
        ("cpu : POWER9\n", ["unknown"]),
        (None, ["unknown"]),
    ],
)
def test_features_are_the_systems_word_or_unknown(text, found, monkeypatch):
    def read(self, **_):
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "no /proc here", str(self))
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    cpu.cpu_features.cache_clear()
    assert doctor._features() == found
    cpu.cpu_features.cache_clear()


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14", "emscripten"])
def test_a_system_that_has_no_such_function_says_nothing(system, monkeypatch):
    """This one has neither macOS's nor Windows's, unless it is that one."""
    monkeypatch.setattr(cpu.sys, "platform", system)
    cpu.cpu_features.cache_clear()
    assert isinstance(cpu.cpu_features(), frozenset)
    cpu.cpu_features.cache_clear()


def test_doctor_says_where_no_child_can_be_started(monkeypatch):
    assert doctor._preflight() == "in a child process"
    monkeypatch.setattr(cpu.sys, "frozen", True, raising=False)
    monkeypatch.setattr(children, "_supported", False)  # a test before this one may have called it
    assert "freeze_support" in doctor._preflight()


def test_a_cache_on_a_drive_that_is_not_there_is_described(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self, **_: False)
    assert doctor._cache(Path("/nowhere/at/all"))["writable"] == "no"


def test_files_and_pipes_are_utf8_and_a_terminal_is_what_it_is(monkeypatch):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    read = io.TextIOWrapper(io.BytesIO("schön".encode()), encoding="cp1252")
    make_utf8(read)
    assert read.read() == "schön"
    written = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    make_utf8(written)
    assert (written.encoding, written.errors) == ("utf-8", "replace")

    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    shown = io.TextIOWrapper(Terminal(), encoding="cp1252")
    make_utf8(shown)
    assert (shown.encoding, shown.errors) == ("cp1252", "replace")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    wished = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    make_utf8(wished)
    assert wished.encoding == "latin-1"


def test_a_temporary_folder_that_cannot_be_removed_is_no_error(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = in_spare_place("a", lambda path: path.write_bytes(b"1"))
    monkeypatch.setattr(os, "unlink", refusing)
    folder.cleanup()
    assert not recwarn.list


def refusing(*_, **__):
    raise PermissionError(errno.EACCES, "mapped")
