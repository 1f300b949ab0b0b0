"""Merged bases in the cache: what is found again, and what never is."""

import shutil

import pytest

import lorakit.merged
from conftest import DATA
from lorakit.base import Base
from lorakit.errors import SourceError
from lorakit.formats import read_adapter
from lorakit.merged import MergedAdapter, merged_base

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

    real = lorakit.merged.merge
    monkeypatch.setattr("lorakit.merged.merge", merge)
    with pytest.raises(SourceError, match="changed while"):
        made(folder, said())
    assert not list((cache / "merged").glob("*/base"))


def test_what_a_killed_merge_left_is_removed(folder, cache):
    path = made(folder, said())
    shutil.rmtree(path)
    left = path.with_name(f".{path.name}.0123456789ab.tmp")
    left.mkdir()
    assert made(folder, said()) == path
    assert not left.exists()
