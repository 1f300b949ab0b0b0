"""What is in the cache, and what pruning and clearing remove."""

import hashlib
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from lorakit.errors import ParameterError, WriteError
from lorakit.files.cache import Memo, cached_file
from lorakit.sources.prune import clear, entries, prune
from lorakit.sources.store import Record, Store

DAY = 86400
NOBODY = 65534


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def add_graph(cache, name, size, days):
    folder = cache / "graphs" / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"x" * size)
    set_age(folder, days)


def add_download(source, content, days, name="a.gguf"):
    store = Store()
    key = hashlib.sha256(source.encode()).hexdigest()
    part = store.partial(key)
    part.write_bytes(content)
    sha = hashlib.sha256(content).hexdigest()
    blob = store.put(key, part, Record(source=source, sha256=sha, size=len(content), etag=None))
    tree = store.tree(source, {name: blob})
    for path in (blob, tree):
        set_age(path, days)
    return tree, blob


def set_age(path, days):
    when = time.time() - days * DAY
    os.utime(path, (when, when))


def names(found):
    return [entry.name for entry in found]


def test_an_empty_cache():
    assert entries() == []
    assert prune(max_age=0) == []
    assert clear() == []


def test_everything_is_listed_with_its_last_use(cache):
    add_graph(cache, "g", 1000, days=3)
    add_download("https://host/a.gguf", b"abc", days=1)
    Memo("fingerprints").get("k", lambda: "value")
    Store().partial("f" * 64).write_bytes(b"par")
    set_age(Store().partial("f" * 64), 5)
    found = entries()
    assert [e.kind for e in found] == ["fingerprints", "downloads", "graphs", "partial"]
    assert names(found)[1] == "https://host/a.gguf"
    assert [e.size for e in found][2:] == [1000, 3]
    assert found[2].to_dict()["kind"] == "graphs"


def test_pruning_by_age_removes_what_was_not_used(cache):
    add_graph(cache, "old", 10, days=40)
    add_graph(cache, "new", 10, days=2)
    old_tree, old_blob = add_download("https://host/old.gguf", b"old", days=40)
    tree, blob = add_download("https://host/new.gguf", b"new", days=2)
    assert set(names(prune(max_age=30 * DAY))) == {"old", "https://host/old.gguf"}
    assert not old_tree.exists()
    assert not old_blob.exists()
    assert blob.exists()
    assert (tree / "a.gguf").read_bytes() == b"new"
    assert len(list((cache / "downloads/urls").iterdir())) == 1


def test_pruning_by_size_removes_the_oldest_first(cache):
    for name, days in (("a", 3), ("b", 2), ("c", 1)):
        add_graph(cache, name, 1000, days)
    assert names(prune(max_bytes=2500)) == ["a"]
    assert names(prune(max_bytes=0)) == ["b", "c"]


def test_the_bytes_of_a_download_go_with_it(cache):
    _, blob = add_download("https://host/new.gguf", b"new", days=0)
    assert len(prune(max_bytes=0)) == 1
    assert not blob.exists()


def test_a_blob_that_another_tree_uses_stays(cache):
    add_download("https://host/old.gguf", b"same", days=40)
    _, blob = add_download("https://host/new.gguf", b"same", days=2)
    set_age(blob, 40)
    prune(max_age=30 * DAY)
    assert blob.exists()


def test_clear_removes_everything_but_what_is_being_downloaded(cache):
    add_graph(cache, "g", 10, days=0)
    add_download("https://host/a.gguf", b"abc", days=0)
    Memo("fingerprints").get("k", lambda: "value")
    busy, idle = Store().partial("b" * 64), Store().partial("c" * 64)
    for part in (busy, idle):
        part.write_bytes(b"part")
    (cache / "downloads/locks").mkdir(exist_ok=True)
    with FileLock(cache / "downloads/locks" / busy.name):
        clear()
    assert [e.kind for e in entries()] == ["partial"]
    assert busy.exists()
    assert not list((cache / "downloads/blobs").iterdir())
    assert not list((cache / "downloads/urls").iterdir())


@contextmanager
def as_its_owner(place):
    """Permissions do not hold for root, who hands the folder over and becomes another."""
    if os.geteuid() != 0:
        yield
        return
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_what_cannot_be_removed_is_told(monkeypatch):
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name, "cache")
        monkeypatch.setenv("LORAKIT_CACHE", str(cache))
        add_graph(cache, "g", 10, days=0)
        (cache / "graphs").chmod(0o500)
        with as_its_owner(Path(name)):
            with pytest.raises(WriteError, match="cannot be removed"):
                clear()
            (cache / "graphs").chmod(0o700)
            clear()
        assert not list((cache / "graphs").iterdir())


def test_pruning_says_what_to_remove():
    with pytest.raises(ParameterError):
        prune()
    with pytest.raises(ParameterError):
        prune(max_age=-1)


def test_a_file_and_its_seal_are_one_entry(cache):
    path = cache / "llama/a.gguf"
    with cached_file(path, lambda place: place.write_bytes(b"x" * 1000)):
        pass
    (found,) = entries()
    assert found.kind == "llama"
    assert found.name == "a.gguf"
    assert found.size > 1000
    assert len(clear()) == 1
    assert list(path.parent.iterdir()) == []
    (path.parent / "b.gguf.seal").write_bytes(b"{}")
    assert names(clear()) == ["b.gguf.seal"]


def test_a_file_is_listed_by_what_its_seal_says_that_it_is_of(cache):
    path = cache / "llama/a.gguf"
    with cached_file(path, lambda place: place.write_bytes(b"x"), "base.gguf + adapter ab"):
        pass
    assert names(entries()) == ["base.gguf + adapter ab"]
    for broken in (b"", b"{}", b'{"name": 3}', b"\xff"):
        path.with_name("a.gguf.seal").write_bytes(broken)
        assert names(entries()) == ["a.gguf"]


def test_what_killed_processes_left_is_no_entry_and_goes(cache):
    add_graph(cache, "g", 10, days=0)
    places = [cache / "graphs", cache / "graphs/g", cache / "downloads/urls"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".x.0123456789ab.tmp").write_bytes(b"half")
    assert [entry.kind for entry in entries()] == ["graphs"]
    left = list(cache.rglob("*.tmp"))
    assert left == ([] if os.name == "posix" else left)


def test_graphs_are_listed_by_the_name_of_their_model(cache):
    add_graph(cache, "a" * 32, 10, 1)
    add_graph(cache, "b" * 32, 10, 2)
    named = '{"key": "x", "name": "SmolLM2 (float32)", "files": {}}'
    (cache / "graphs" / ("a" * 32) / "manifest.json").write_text(named)
    (cache / "graphs" / ("b" * 32) / "manifest.json").write_text('{"name": 3}')
    assert {entry.name for entry in entries()} == {"SmolLM2 (float32)", "b" * 32}
