"""A model in several files is the model, however it was split."""

from dataclasses import replace

import numpy as np
import pytest

from folders import DATA, link
from gguf_files import split
from lorakit.base.gguf import open_base
from lorakit.errors import SourceError
from lorakit.files import gguf
from lorakit.files.bounded import MAX_READ
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_parts import first_part, gguf_parts, open_gguf_model, part_names
from lorakit.merge import merge

WHOLE = DATA / "truth" / "gguf" / "llama.base.f32.gguf"
LAYOUTS = {  # parts, tensors in the first; llama-gguf-split can keep the first for the values alone
    "two": (2, None),
    "nine": (9, None),
    "no tensor in the first": (3, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_parts_are_read_as_the_whole(layout, tmp_path):
    count, first = layout
    file = open_gguf_model(split(WHOLE, tmp_path / "m", count, first))
    whole = open_gguf(WHOLE, model=True)
    assert len(file.parts) == count
    assert file.values.keys() == whole.values.keys()
    assert {k: bytes(v) for k, v in file.stored.items()} == {
        k: bytes(v) for k, v in whole.stored.items()
    }
    assert list(file.tensors) == list(whole.tensors)
    for name, tensor in whole.tensors.items():
        assert np.array_equal(file.tensors[name].array(), tensor.array()), name


def test_a_file_alone_is_one_part(tmp_path):
    said = {"split.count": Value("u16", 1)}
    for path in (WHOLE, split(WHOLE, tmp_path / "m", 1, None, part1=said)):
        assert open_gguf_model(path).parts == gguf_parts(path) == (path,)


def test_a_whole_model_may_have_a_parts_name(tmp_path):
    """llama.cpp opens it, too: what a file is says its content."""
    path = tmp_path / "m-00002-of-00003.gguf"
    path.write_bytes(WHOLE.read_bytes())
    assert open_base(path).files == gguf_parts(path) == (path,)


def test_a_base_of_parts_is_the_base(tmp_path):
    """But for its fingerprint, which is over other files, and over all of them."""
    first = split(WHOLE, tmp_path / "m", 3)
    base, whole = open_base(first), open_base(WHOLE)
    assert (base.config, base.decoder, base.templates) == (
        whole.config, whole.decoder, whole.templates,
    )  # fmt: skip
    assert base.tensors.keys() == whole.tensors.keys()
    alone = replace(base, files=base.files[:1], _fingerprint=[])
    before = (base.fingerprint, alone.fingerprint)
    last = base.files[-1]
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    changed = open_base(first)
    assert changed.fingerprint != before[0]
    alone = replace(changed, files=changed.files[:1], _fingerprint=[])
    assert alone.fingerprint == before[1], "the broken variant, over the first alone, sees it too"


def test_the_folder_of_parts_is_the_folder_of_the_whole(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for source, folder in zip((WHOLE, split(WHOLE, tmp_path / "m", 4, 0)), folders, strict=True):
        merge(source, [], folder)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in set(names[0]) - {"lorakit.json"}:  # which says what it was made of
        one, other = (folder / name for folder in folders)
        assert one.read_bytes() == other.read_bytes(), name


def test_links_with_the_names_of_parts_are_read(tmp_path):
    """As the Hub's cache has them; what they lead to is named otherwise."""
    first = split(WHOLE, tmp_path / "m", 2)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(gguf_parts(first)):
        path.rename(tmp_path / "blobs" / str(number))
        link(path, tmp_path / "blobs" / str(number))
    assert open_base(first).decoder == open_base(WHOLE).decoder


NAMES = {
    "m-00001-of-00002.gguf": ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"),
    "m-00001-of-00001.gguf": ("m-00001-of-00001.gguf",),
    **dict.fromkeys(["m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-1-of-2.gguf"]),
    **dict.fromkeys(["-00001-of-00002.gguf", "m-00001-of-99999.gguf", "m-00001-of-00002.bin"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_parts_have_names_by_which_they_are_found(name):
    assert part_names(name) == (NAMES[name] or (name,))


def test_the_name_of_another_part_leads_to_the_first():
    assert first_part("a-00002-of-00003.gguf") == "a-00001-of-00003.gguf"
    assert first_part("model.gguf") == "model.gguf"
    with pytest.raises(SourceError, match=r"part 2 of 3(.|\n)*a-00001-of-00003\.gguf") as caught:
        part_names("a-00002-of-00003.gguf")
    assert caught.value.code == "source_unsupported"


def test_many_small_parts_are_mapped_not_read(tmp_path, monkeypatch):
    """All together would be as large as the model."""
    first, limits = split(WHOLE, tmp_path / "m", 9), []
    load = gguf.load
    monkeypatch.setattr(gguf, "load", lambda path, most: (limits.append(most), load(path, most))[1])
    open_gguf_model(first)
    assert len(limits) == 9
    assert sum(limits[1:]) <= MAX_READ
