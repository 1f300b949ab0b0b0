"""What is remembered, and that a cache which cannot be written is no error."""

import sys
from pathlib import Path

import pytest

from lorakit.cache import Memo, cache_root


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


def test_a_damaged_entry_is_computed_again(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    Memo("kind").get("key", lambda: "value")
    (entry,) = (tmp_path / "kind").iterdir()
    entry.write_bytes(b"\xff\xfe")
    assert Memo("kind").get("key", lambda: "again") == "again"
