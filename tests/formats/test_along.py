"""An adapter's tokenizer and template come along where it is written again, all or nothing."""

import shutil

import pytest

from folders import DATA
from lorakit.base.folder import Base
from lorakit.errors import WriteError
from lorakit.formats.convert import convert, repair
from lorakit.formats.mlx import write as mlx
from lorakit.formats.peft import write as peft

BASE, PLAIN = DATA / "truth/bases/llama", DATA / "truth/peft/llama/plain"
TEXT = ("chat_template.jinja", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def adapter(tmp_path):
    folder = shutil.copytree(PLAIN, tmp_path / "own")
    for name in TEXT:
        shutil.copy(BASE / "tokenizer_config.json", folder / name)  # any bytes: they are copied
    (folder / "optimizer.pt").write_bytes(b"no")
    return folder


def written(adapter, out, way, base=None):
    if way == "repair":
        return repair(adapter, out, base=base)
    return convert(adapter, out, to=way, base=base)


@pytest.mark.parametrize("way", ["peft", "mlx", "repair"])
def test_they_come_along_and_are_said(adapter, tmp_path, way):
    report = written(adapter, tmp_path / "out", way, Base.open(BASE))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= set(TEXT)
    assert "optimizer.pt" not in names
    for name in TEXT:
        assert (tmp_path / "out" / name).read_bytes() == (adapter / name).read_bytes()
    (note,) = [note for note in report.notes if "came along" in note]
    assert all(name in note for name in TEXT)


def test_of_weights_that_are_named_as_well(adapter, tmp_path):
    convert(adapter / "adapter_model.safetensors", tmp_path / "out", to="mlx")
    assert (tmp_path / "out/tokenizer.json").exists()


def test_where_there_are_none_nothing_is_said(tmp_path):
    report = repair(PLAIN, tmp_path / "out")
    assert not any("came along" in note for note in report.notes)
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("to", ["gguf", "ort"])
def test_one_file_has_no_place_for_them(adapter, tmp_path, to):
    report = convert(adapter, tmp_path / "out", to=to, base=Base.open(BASE))
    assert (tmp_path / "out").is_file()
    assert not any("came along" in note for note in report.notes)


@pytest.mark.parametrize(("to", "module"), [("peft", peft), ("mlx", mlx)])
def test_a_full_disk_leaves_nothing(adapter, tmp_path, monkeypatch, to, module):
    def full(path, content, write=module.write_synced):
        if path.name == "tokenizer.json":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(module, "write_synced", full)
    with pytest.raises(WriteError, match="No space"):
        convert(adapter, tmp_path / "out", to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]
