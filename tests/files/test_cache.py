"""What is remembered, and that a cache which cannot be written is no error."""

import errno
import os
import re
import sys
from pathlib import Path

import pytest

import lorakit.files.cache
from lorakit.files.cache import Memo, cache_root, sweep_cache


def test_the_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG rule is Linux's")
def test_the_folder_is_the_platforms(monkeypatch, tmp_path):
    monkeypatch.delenv("LORAKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "lorakit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache/lorakit"


def test_a_value_is_computed_once(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    calls = []
    for _ in range(2):
        assert Memo("kind").get("key", lambda: calls.append(1) or "value") == "value"
    assert Memo("kind").get("other", lambda: "else") == "else"
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file"))
    assert Memo("kind").get("key", lambda: "value") == "value"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_no_error(monkeypatch, tmp_path, number):
    def full(*args):
        raise OSError(number, "no")

    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    monkeypatch.setattr("lorakit.files.cache.write_atomic", full)
    assert Memo("kind").get("key", lambda: "value") == "value"


def test_a_user_without_a_home_has_a_cache_that_cannot_be_written(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("LORAKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    if sys.platform != "win32":
        assert Memo("kind").get("key", lambda: "value") == "value"


def other_value(entry):
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)


def of_another_key(entry):
    Memo("kind").get("other", lambda: "else")
    (other,) = [path for path in entry.parent.iterdir() if path != entry]
    entry.write_bytes(other.read_bytes())


DAMAGE = {
    "bytes": lambda entry: entry.write_bytes(b"\xff\xfe"),
    "empty": lambda entry: entry.write_bytes(b""),
    "a flipped bit of the value": other_value,
    "as it was written before there were digests": lambda entry: entry.write_bytes(b"value"),
    "another key's": of_another_key,
    "much": lambda entry: entry.write_bytes(b"x" * 100_000),
    "truncated": lambda entry: entry.write_bytes(entry.read_bytes()[:-1]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_computed_again(monkeypatch, tmp_path, caplog, damage):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    Memo("kind").get("key", lambda: "value")
    (entry,) = (tmp_path / "kind").iterdir()
    damage(entry)
    assert Memo("kind").get("key", lambda: "again") == "again"
    assert Memo("kind").get("key", lambda: "never") == "again"
    assert len(caplog.records) == 1


def test_without_a_digest_a_flipped_bit_is_another_value(monkeypatch, tmp_path):
    """The broken variant: an entry that is the value alone."""
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        lorakit.files.cache, "_packed", lambda key, value: b" " * 65 + value.encode()
    )
    Memo("kind").get("key", lambda: "safe")
    (entry,) = (tmp_path / "kind").iterdir()
    other_value(entry)
    assert Memo("kind").get("key", lambda: "safe") != "safe"


@pytest.mark.skipif(os.name != "posix", reason="what is open cannot be removed there")
def test_what_was_left_over_is_swept_once_in_a_process(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    places = [
        tmp_path / "llama",
        tmp_path / "graphs",
        tmp_path / "downloads/trees",
        tmp_path / "merged/key",
    ]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".a.0123456789ab.tmp").write_bytes(b"half")
    kept = tmp_path / "downloads/trees/t/.a.0123456789ab.tmp"  # of a user's repository, may be
    kept.parent.mkdir()
    kept.write_bytes(b"mine")
    other = tmp_path / "documents/.a.0123456789ab.tmp"  # who calls a folder of theirs a cache
    other.parent.mkdir()
    other.write_bytes(b"mine")
    sweep_cache()
    assert sorted(tmp_path.rglob("*.tmp")) == sorted([kept, other])
    other.unlink()
    (tmp_path / "llama/.a.0123456789ab.tmp").write_bytes(b"half")
    sweep_cache()
    assert len(list(tmp_path.rglob("*.tmp"))) == 2
    sweep_cache(again=True)
    assert list(tmp_path.rglob("*.tmp")) == [kept]


def test_every_folder_of_the_cache_is_one_that_is_swept():
    """By the source: whoever writes into a new one adds it to KINDS."""
    source = Path(lorakit.__file__).parent
    named = re.compile(r'cache_root\(\) / "(\w+)"|Memo\("(\w+)"\)')
    found = {
        name
        for path in source.rglob("*.py")
        for pair in named.findall(path.read_text(encoding="utf-8"))
        for name in pair
        if name
    }
    assert found - {"kind"} == set(lorakit.files.cache.KINDS)
