"""Merged bases in the cache: what is found again, and what never is."""

import errno
import json
import os
import shutil

import pytest

import lorakit.merge.cached
from folders import DATA
from lorakit.base.folder import Base
from lorakit.errors import SourceError
from lorakit.formats import read_adapter
from lorakit.merge.cached import MergedAdapter, merged_base

TRUTH = DATA / "truth"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TRUTH / "bases/llama", tmp_path / "base")


def said(name="plain", scale=1.0):
    adapter = read_adapter(TRUTH / f"peft/llama/{name}")
    return adapter, MergedAdapter(name=name, source=name, scale=scale, digest=adapter.digest)


def made(folder, *adapters):
    return merged_base(Base.open(folder), adapters).path


def test_one_folder_for_one_base_and_set_of_adapters(folder, cache):
    sets = [(said(),), (said(scale=0.5),), (said("plain_b"),), (said(), said("plain_b"))]
    paths = [made(folder, *adapters) for adapters in sets]
    assert len(set(paths)) == len(sets)
    assert [made(folder, *adapters) for adapters in sets] == paths


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "chat_template.jinja"])
def test_a_base_with_another_file_is_another_base(name, folder, cache):
    before = made(folder, said())
    file = folder / name
    file.write_text((file.read_text() if file.exists() else "") + "\n")
    if name == "config.json":
        file.write_text(
            file.read_text()
            .replace("{", '{"bos_token_id": 3, ', 1)
            .replace('"bos_token_id": 1,', "")
        )
    after = made(folder, said())
    assert after != before
    if name == "config.json":  # it says RoPE's base for older readers, too
        written = json.loads((after / name).read_text())
        assert json.loads(file.read_text()).items() <= written.items()
    else:
        assert (after / name).read_bytes() == file.read_bytes()


def test_a_base_that_changes_during_the_merge_is_not_kept(folder, cache, monkeypatch):
    def merge(base, *arguments, **options):
        report = real(base, *arguments, **options)
        weights = folder / "model.safetensors"
        shutil.copyfile(weights, folder / "new")
        (folder / "new").replace(weights)
        with weights.open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        return report

    real = lorakit.merge.cached.merge
    monkeypatch.setattr("lorakit.merge.cached.merge", merge)
    with pytest.raises(SourceError, match="changed while"):
        made(folder, said())
    assert not list((cache / "merged").glob("*/base"))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit in the weights": lambda path: flipped(path / "model.safetensors"),
    "a flipped bit in the tokenizer": lambda path: flipped(path / "tokenizer.json"),
    "a truncated file": lambda path: os.truncate(path / "model.safetensors", 1000),
    "a file gone": lambda path: (path / "config.json").unlink(),
    "a file more": lambda path: (path / "chat_template.jinja").write_text("{{ 1 }}"),
    "no record": lambda path: (path.parent / ".source.json").unlink(),
    "a damaged record": lambda path: flipped(path.parent / ".source.json"),
    "half a merge": lambda path: (path.parent / ".source.json").write_text('{"files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_merge_is_made_again(folder, cache, caplog, damage):
    path = made(folder, said())
    content = {file.name: file.read_bytes() for file in path.iterdir()}
    damage(path)
    assert made(folder, said()) == path
    assert {file.name: file.read_bytes() for file in path.iterdir()} == content
    assert len(caplog.records) == 1
    assert "made again" in caplog.text


def test_that_it_is_there_would_not_show_it(folder, cache, monkeypatch):
    """The broken variant: what was there before."""
    path = made(folder, said())
    flipped(path / "model.safetensors")
    before = (path / "model.safetensors").read_bytes()
    monkeypatch.setattr(lorakit.merge.cached, "_whole", lambda entry, name: (entry / name).is_dir())
    made(folder, said())
    assert (path / "model.safetensors").read_bytes() == before


def full(*args, **options):
    raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("how", ["in the way", "full"])
def test_a_cache_without_room_costs_a_temporary_folder(folder, cache, monkeypatch, caplog, how):
    expected = made(folder, said())
    monkeypatch.setattr(lorakit.merge.cached, "_elsewhere", {})
    if how == "full":
        monkeypatch.setattr("lorakit.merge.cached.write_atomic", full)
        shutil.rmtree(expected.parent)
    else:
        (cache.parent / "file").write_text("in the way")
        monkeypatch.setenv("LORAKIT_CACHE", str(cache.parent / "file"))
    base = merged_base(Base.open(folder), [said()])
    assert not base.path.is_relative_to(cache)
    assert base.path.name == expected.name
    assert "cannot be kept" in caplog.text
    assert merged_base(Base.open(folder), [said()]).path == base.path
    for kept in lorakit.merge.cached._elsewhere.values():
        kept.cleanup()


def test_a_cache_that_may_only_be_read_serves_what_it_has(folder, cache, monkeypatch):
    path = made(folder, said())
    monkeypatch.setattr("lorakit.sources.store.FileLock.acquire", full)
    monkeypatch.setattr("lorakit.merge.cached.write_atomic", full)
    assert made(folder, said()) == path


def test_what_a_killed_merge_left_is_removed(folder, cache):
    path = made(folder, said())
    shutil.rmtree(path)
    left = path.with_name(f".{path.name}.0123456789ab.tmp")
    left.mkdir()
    assert made(folder, said()) == path
    assert not left.exists()
