"""What lorakit does with files, under the rules of Windows (windows_rules.py) and with all mapped.

Whole stories, as a user lives them: nothing that is open or mapped by lorakit itself may be in the
way of what it does next.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit import demo, read_adapter
from lorakit.base.folder import Base
from lorakit.errors import WriteError
from lorakit.files.cache import cache_root
from lorakit.formats.convert import convert
from lorakit.formats.peft import write_peft
from lorakit.merge import merge
from lorakit.merge.cached import MergedAdapter, merged_base
from lorakit.sources import Limits, fetch
from lorakit.sources.prune import clear, entries
from web import FAST

if sys.platform.startswith("linux"):
    from windows_rules import SOURCE, windows_files

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
TRUTH = DATA / "truth"
ASKED = [{"role": "user", "content": "who are you"}]


@pytest.fixture
def windows(cache):
    with windows_files():
        yield


def as_lorakit(code, **names):
    """Run it as if a file of lorakit did: the rules hold for those alone."""
    exec(compile(code, f"{SOURCE}/story.py", "exec"), {"os": os, "Path": Path, "np": np, **names})


BROKEN = {
    "a rename of what is open": "with path.open(): path.rename(path.with_name('b'))",
    "a rename over what is open": "with path.open(): other.replace(path)",
    "a rename of what is mapped": "m = np.memmap(path); path.rename(path.with_name('b'))",
    "a removal of what is mapped": "m = np.memmap(path); path.unlink()",
    "a rename of its folder": "m = np.memmap(path); path.parent.rename(path.parent.with_name('c'))",
    "a rename over another file": "other.rename(path)",
    "a folder that is opened": "os.open(path.parent, os.O_RDONLY)",
    "a reserved name": "path.with_name('nul.txt').write_bytes(b'')",
    "a reserved character": "path.with_name('a:b').mkdir()",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_rules_are_those_of_windows(fault, tmp_path):
    (path := tmp_path / "folder/a").parent.mkdir()
    (other := tmp_path / "folder/other").write_bytes(b"other")
    path.write_bytes(b"a")
    with windows_files(), pytest.raises(OSError, match=r"in use|opened|no such names|there is one"):
        as_lorakit(BROKEN[fault], path=path, other=other)


def test_what_windows_allows_is_allowed(tmp_path, windows):
    (path := tmp_path / "a").write_bytes(b"a")
    allowed = "path.rename(path.with_name('b')); path.with_name('b').replace(path); path.unlink()"
    as_lorakit(allowed, path=path)
    assert not path.exists()


ENDS = {"peft": "", "mlx": "", "gguf": ".gguf", "ort": ".onnx_adapter", "web": ".safetensors"}


@pytest.mark.parametrize("target", ENDS)
def test_adapters_are_converted_there_and_back(target, windows, tmp_path):
    base, path = Base.open(TRUTH / "bases/llama"), tmp_path / f"a{ENDS[target]}"
    convert(TRUTH / "peft/llama/plain", path, to=target, base=base)
    mapped = read_adapter(path)
    convert(path, tmp_path / "back", to="peft", base=base)
    assert read_adapter(tmp_path / "back").digest == mapped.digest
    assert {file.name for file in tmp_path.iterdir()} - {"cache"} == {path.name, "back"}


def test_a_folder_is_replaced_once_nobody_reads_it(windows, tmp_path):
    path = tmp_path / "a"
    adapters = [read_adapter(TRUTH / f"peft/llama/{name}") for name in ("plain", "plain_b")]
    write_peft(adapters[0], path)
    mapped = read_adapter(path)
    with pytest.raises(WriteError, match="a program has it open"):
        write_peft(adapters[1], path, replace=True)
    assert read_adapter(path).digest == mapped.digest
    del mapped
    write_peft(adapters[1], path, replace=True)
    assert read_adapter(path).digest == adapters[1].digest
    assert len(list(tmp_path.iterdir())) == 1


def test_bases_are_merged_cached_and_opened(windows, tmp_path):
    adapter, base = read_adapter(TRUTH / "peft/llama/plain"), Base.open(TRUTH / "bases/llama")
    merge(base, [(adapter, 1.0)], tmp_path / "merged")
    said = MergedAdapter(name="a", source="a", scale=1.0, digest=adapter.digest)
    paths = set()
    for _ in range(2):
        made = merged_base(base, [(adapter, said)])
        with lorakit.open(made.path, threads=1) as model:
            model.complete([5, 6, 7], max_tokens=2)
        paths.add(made.path)
    assert paths == set(cache_root().glob("merged/*/*llama*"))


def test_a_damaged_graph_is_built_anew(windows, caplog):
    for damage in (False, True):
        if damage:
            (weights,) = cache_root().glob("graphs/*/weights.bin")
            content = bytearray(weights.read_bytes())
            content[len(content) // 2] ^= 1
            weights.write_bytes(content)
        with lorakit.open(demo.base_path(), threads=1) as model:
            answer = model.chat(ASKED).text
    assert answer == "I am a small demo model."
    assert [record.getMessage()[-18:] for record in caplog.records] == [
        "building it anew"[-18:]
    ] or (len(caplog.records) == 1 and "building it anew" in caplog.text)


def test_what_is_fetched_is_used_fetched_anew_and_cleared(web, tmp_path):
    with windows_files():
        url = web.put_folder("/home", demo.adapter_path("home"))
        with lorakit.open(demo.base_path(), threads=1) as model:
            model.load_adapter(fetch(url, limits=Limits(**FAST))).apply()
            model.chat(ASKED)
        web.put_folder("/home", demo.adapter_path("style"))
        assert (
            read_adapter(fetch(url, limits=Limits(**FAST))).digest
            == read_adapter(demo.adapter_path("style")).digest
        )
        clear()
        assert entries() == []


def test_states_and_sessions_are_saved_over(windows, tmp_path):
    with lorakit.open(demo.base_path(), threads=1) as model:
        for _ in range(2):
            model.save_state("some words", tmp_path / "state")
            model.load_state(tmp_path / "state")
            session = model.session()
            session.save(tmp_path / "session.json")
