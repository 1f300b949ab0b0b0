"""A limit of the cache: off unless it is set, the oldest first, never what a process uses."""

import gc
import os
import subprocess
import sys

import pytest
from test_prune import add_download, add_graph, names, set_age

import lorakit
from commands import invoke
from folders import DATA
from lorakit import demo
from lorakit.errors import ParameterError, WriteError
from lorakit.files import holding
from lorakit.files.cache import LIMIT, Memo, cache_limit, cache_root, set_cache_limit
from lorakit.files.holding import hold, is_held
from lorakit.sources import fetch, prune
from lorakit.sources.prune import entries, keep_limit
from lorakit.values import byte_count

BASE = DATA / "truth/bases/llama"
PLAIN = lorakit.AdapterConfig(DATA / "truth/peft/llama/plain", mode="merge")
HOLDER = """
import sys
from pathlib import Path
from lorakit.files.holding import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
locks = pytest.mark.skipif(sys.platform == "win32", reason="removes nothing that is open there")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT, raising=False)
    return tmp_path / "cache"


def test_nothing_is_removed_unless_a_limit_is_set(cache, monkeypatch):
    add_graph(cache, "old", 10_000, days=400)
    assert cache_limit() is None
    assert keep_limit() == []
    assert names(entries()) == ["old"]
    monkeypatch.setenv(LIMIT, "5000")
    assert names(keep_limit()) == ["old"]


def test_the_oldest_go_first_and_only_as_many_as_must(cache, monkeypatch):
    for name, days in (("a", 3), ("b", 2), ("c", 1), ("now", 0)):
        add_graph(cache, name, 1000, days)
    monkeypatch.setenv(LIMIT, "2.5kB")
    assert names(keep_limit()) == ["b", "a"][::-1]
    assert names(entries()) == ["now", "c"]
    monkeypatch.setenv(LIMIT, "0")
    assert names(keep_limit()) == ["c"]  # what was used within the hour stays


def test_what_others_keep_there_is_neither_counted_nor_removed(cache, monkeypatch):
    (cache / "mine" / "x").mkdir(parents=True)
    (cache / "mine" / "x" / "data").write_bytes(b"x" * 9000)
    set_age(cache / "mine" / "x", 100)
    add_graph(cache, "g", 1000, days=50)
    Memo("models").get("k", lambda: "value")
    set_age(next((cache / "models").iterdir()), 90)
    monkeypatch.setenv(LIMIT, "2000")
    assert keep_limit() == []
    monkeypatch.setenv(LIMIT, "500")
    assert names(keep_limit()) == ["g"]


@locks
def test_what_another_process_uses_stays_until_it_ends(cache, monkeypatch):
    add_graph(cache, "used", 1000, days=9)
    add_graph(cache, "idle", 1000, days=3)
    monkeypatch.setenv(LIMIT, "0")
    used = cache / "graphs/used"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, used],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout.readline() == "held\n"
        assert {entry.name: entry.held for entry in entries()} == {"idle": False, "used": True}
        assert "in use" in invoke("cache", "list").stdout
        assert names(keep_limit()) == ["idle"]
        assert prune.prune(max_age=0) == []  # a person's prune leaves it too
        assert used.is_dir()
        child.kill()
    assert names(keep_limit()) == ["used"]


@locks
def test_without_the_locks_it_would_have_gone(cache, monkeypatch):
    """The broken variant."""
    add_graph(cache, "used", 1000, days=9)
    hold(cache / "graphs/used")
    monkeypatch.setenv(LIMIT, "0")
    assert keep_limit() == []
    monkeypatch.setattr(prune, "is_held", lambda path: False)
    assert names(keep_limit()) == ["used"]


@locks
@pytest.mark.parametrize("tries", [holding.TRIES, 1])
def test_who_looks_does_not_keep_another_from_holding(cache, monkeypatch, tries):
    """`is_held` of another process has the lock for a moment: with one try nothing is held."""
    import fcntl  # Windows has none

    add_graph(cache, "used", 1000, days=9)
    used = cache / "graphs/used"
    looking = os.open(used, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_EX)
    monkeypatch.setattr(holding, "sleep", lambda seconds: os.close(looking))
    monkeypatch.setattr(holding, "TRIES", tries)
    hold(used)
    assert is_held(used) is (tries > 1)


@locks
def test_an_open_models_graph_and_merged_base_are_held(cache):
    with lorakit.open(BASE, adapter=PLAIN, threads=1) as model:
        model.logits([1, 2, 3])
        held = {entry.kind for entry in entries() if entry.held}
        assert held == {"graphs", "merged"}
    del model
    gc.collect()
    assert {entry.kind for entry in entries() if entry.held} == {"merged"}  # mapped by the base


@locks
def test_a_base_that_was_fetched_is_held_and_an_adapter_is_not(cache, monkeypatch):
    from lorakit.sources import web

    tree, _ = add_download("https://host/a.gguf", b"abc", days=0)
    monkeypatch.setattr(web, "fetch_one", lambda *_, **__: tree / "a.gguf")
    for kind, held in (("adapter", False), ("base", True)):
        path = fetch("https://host/a.gguf", kind=kind)
        assert is_held(path.parent) is held


def test_opening_and_fetching_keep_the_limit(cache, monkeypatch):
    from lorakit.sources import web

    for act in (lambda: lorakit.open(BASE, threads=1).close(),
                lambda: fetch("https://host/a.gguf")):  # fmt: skip
        add_graph(cache, "old", 100_000_000 // 1000, days=40)
        monkeypatch.setattr(web, "fetch_url", lambda *_, **__: demo.base_path())
        monkeypatch.delenv(LIMIT, raising=False)
        act()
        assert "old" in names(entries())
        monkeypatch.setenv(LIMIT, "1")
        act()
        assert "old" not in names(entries())


@pytest.mark.parametrize("wrong", ["much", "-1", "2 XB", "1e9", "20GB!", "NaN", "9" * 30])
def test_a_limit_that_is_none_is_an_error(cache, monkeypatch, wrong):
    monkeypatch.setenv(LIMIT, wrong)
    for act in (
        cache_limit,
        keep_limit,
        lambda: lorakit.open(BASE),
        lambda: fetch("https://host.invalid/a.gguf"),
    ):
        with pytest.raises(ParameterError, match=LIMIT) as refused:
            act()
        assert refused.value.code == "parameter_invalid"
    for off in ("", "none", "OFF"):
        monkeypatch.setenv(LIMIT, off)
        assert cache_limit() is None


def test_a_limit_is_kept_in_the_folder_and_the_environment_goes_first(cache, monkeypatch):
    def run(*arguments):
        return invoke("cache", *arguments).stdout

    assert "limit: none; nothing is removed by itself" in run("list")
    assert run("limit").startswith("limit: none")
    assert run("limit", "20GB").startswith("limit: 20 GB")
    assert "limit: 20 GB" in run("list")
    assert '"limit": 20000000000' in run("list", "--json")
    monkeypatch.setenv(LIMIT, "1GB")
    assert cache_limit() == 10**9
    monkeypatch.delenv(LIMIT)
    (cache / "limit").write_text("x" * 100)
    with pytest.raises(ParameterError, match="limit"):
        cache_limit()
    assert run("limit", "none").startswith("limit: none")
    assert cache_limit() is None
    assert isinstance(invoke("cache", "limit", "lots").error, ParameterError)
    assert invoke("cache", "prune", "--to", "0", "--yes").stdout.startswith("removed 0")


def test_a_folder_that_cannot_be_written_says_so(cache):
    cache_root().parent.joinpath("cache").write_text("a file")
    with pytest.raises(WriteError, match="limit"):
        set_cache_limit(5)


def test_what_cannot_be_removed_is_logged_and_opens(cache, monkeypatch, caplog):
    add_graph(cache, "old", 1000, days=40)
    monkeypatch.setenv(LIMIT, "1")

    def refuse(path):
        raise PermissionError(13, "in use", os.fspath(path))

    monkeypatch.setattr(prune, "remove_folder", refuse)
    assert keep_limit() == []
    assert "cannot be kept to its limit" in caplog.text
    assert names(entries()) == ["old"]


def test_sizes_are_read():
    assert byte_count("1.5 GB") == 1_500_000_000
    assert byte_count("500mb") == 500_000_000
    assert byte_count("12") == 12
    assert byte_count("2 TiB") == 2 * 10**12
    for wrong in ("much", "", "1.2.3", "-5", "٣GB"):
        with pytest.raises(ParameterError):
            byte_count(wrong)
