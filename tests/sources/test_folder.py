"""Folders behind URLs: adapters and bases, file by file; and offline mode without a socket."""

import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lorakit
from gguf_files import split
from lorakit import demo, read_adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.errors import BaseModelError, ParameterError, SourceError, UnsupportedError
from lorakit.files.gguf_parts import gguf_parts
from lorakit.merge import merge
from lorakit.sources import Limits, fetch
from lorakit.sources.store import Store
from web import FAST

HOME = demo.adapter_path("home")
LIMITS = Limits(**FAST)


def get(url, **options):
    return fetch(url, limits=LIMITS, **options)


@pytest.mark.parametrize("tail", ["", "/", "/adapter_config.json", "/adapter_model.safetensors"])
def test_an_adapter_folder(web, tail):
    url = web.put_folder("/home", HOME) + tail
    assert read_adapter(get(url)).digest == read_adapter(HOME).digest


def test_a_folder_keeps_its_tree_and_shares_its_blobs(web, cache):
    url = web.put_folder("/home", HOME)
    path = get(url)
    web.put_folder("/copy", HOME)
    assert get(url) == path
    assert get(web.url + "/copy") != path
    assert len(list((cache / "downloads/blobs").iterdir())) == 2


@pytest.mark.parametrize("kept", ["adapter_config.json", "README.md"])
def test_a_folder_without_weights_is_no_adapter(web, kept):
    url = web.put_folder("/home", HOME)
    for name in HOME.iterdir():
        if name.name != kept:
            web.pages.pop(f"/home/{name.name}", None)
    lacking = "adapter_model" if kept.startswith("adapter") else "adapter_config.json"
    with pytest.raises(SourceError, match=f"has no {lacking}") as caught:
        get(url)
    assert caught.value.code == "source_not_found"


def test_weights_without_a_config_come_alone_and_need_an_alpha(web):
    url = web.put_folder("/home", HOME)
    del web.pages["/home/adapter_config.json"]
    path = get(url)
    with pytest.raises(UnsupportedError, match="which says their scale"):
        read_adapter(path)
    first = read_adapter(HOME).deltas[0]
    found = read_adapter(path, alpha=3 * first.rank).deltas[0]
    assert (found.module, found.rank, found.scale) == (first.module, first.rank, 3.0)


def test_other_names_of_weights_are_found(web):
    url = web.put_folder("/home", HOME)
    web.pages["/home/adapters.safetensors"] = web.pages.pop("/home/adapter_model.safetensors")
    assert (get(url) / "adapters.safetensors").exists()


def test_a_file_of_a_folder_may_be_pinned(web):
    url = web.put_folder("/home", HOME)
    weights = (HOME / "adapter_model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert get(f"{url}/adapter_model.safetensors#sha256={digest}")
    with pytest.raises(SourceError) as caught:
        get(f"{url}/adapter_model.safetensors#sha256={'0' * 64}")
    assert caught.value.code == "source_mismatch"
    with pytest.raises(SourceError, match="not a file that was used"):
        get(f"{url}/README.json#sha256={digest}")


def test_all_files_together_are_capped(web):
    url = web.put_folder("/home", HOME)
    with pytest.raises(SourceError) as caught:
        fetch(url, limits=Limits(**FAST, max_bytes=1200))
    assert caught.value.code == "source_too_large"


def test_a_base(web):
    base = Base.open(get(web.put_folder("/base", demo.base_path()), kind="base"))
    assert base.fingerprint == Base.open(demo.base_path()).fingerprint
    assert (base.path / "chat_template.jinja").exists()


OF_WHAT_SEES = ("preprocessor_config.json", "processor_config.json", "chat_template.json")


def test_a_base_that_sees_comes_with_its_processors(web, tmp_path):
    """So that what is merged into it is a whole folder, too."""
    shutil.copytree(demo.base_path(), tmp_path / "base")
    for name in OF_WHAT_SEES:
        (tmp_path / "base" / name).write_text(f'{{"of": "{name}"}}')
    path = get(web.put_folder("/base", tmp_path / "base"), kind="base")
    report = merge(path, [(read_adapter(HOME), 1.0)], tmp_path / "out")
    assert set(OF_WHAT_SEES) <= set(report.along)
    for name in OF_WHAT_SEES:
        assert json.loads((tmp_path / "out" / name).read_text()) == {"of": name}
    plain = get(web.put_folder("/plain", demo.base_path()), kind="base")
    assert not {file.name for file in plain.iterdir()} & set(OF_WHAT_SEES)


def sharded(folder):
    """The demo's base in two shards."""
    shutil.copytree(demo.base_path(), folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: np.ascontiguousarray(tensors[name]) for name in part}, folder / file)
    where = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def test_a_base_in_shards(web, tmp_path):
    url = web.put_folder("/base", sharded(tmp_path / "sharded"))
    assert len(Base.open(get(url, kind="base")).files) == 2
    del web.pages["/base/b.safetensors"]
    with pytest.raises(SourceError, match=r"has no b\.safetensors"):
        get(url, kind="base")


@pytest.mark.parametrize(
    "index",
    ["[]", "{}", '{"weight_map": {"x": 1}}', '{"weight_map": {"x": "../../a.safetensors"}}',
     '{"weight_map": {"x": "/etc/passwd"}}'],
)  # fmt: skip
def test_an_index_of_strangers_is_not_trusted(web, tmp_path, index):
    folder = sharded(tmp_path / "sharded")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BaseModelError):
        get(web.put_folder("/base", folder), kind="base")


class TestOffline:
    @pytest.fixture
    def fetched(self, web):
        url = web.put_folder("/home", HOME)
        one = web.put("/one.gguf", b"bytes")
        return {url: get(url), one: get(one)}

    @pytest.mark.parametrize("by", ["argument", "LORAKIT_OFFLINE", "HF_HUB_OFFLINE"])
    def test_what_is_here_is_used(self, fetched, by, monkeypatch, request):
        request.getfixturevalue("no_network")
        if by != "argument":
            monkeypatch.setenv(by, "1")
        for url, path in fetched.items():
            assert get(url, offline=True if by == "argument" else None) == path

    @pytest.mark.parametrize("tail", ["/other.gguf", "/other"])
    def test_what_is_not_is_an_error(self, web, tail, no_network):
        with pytest.raises(SourceError) as caught:
            get(web.url + tail, offline=True)
        assert caught.value.code == "offline"

    def test_the_callers_word_goes_before_the_environment(self, web, monkeypatch):
        monkeypatch.setenv("LORAKIT_OFFLINE", "1")
        assert get(web.put("/one.gguf", b"x"), offline=False).read_bytes() == b"x"
        monkeypatch.setenv("LORAKIT_OFFLINE", "0")
        assert get(web.put("/two.gguf", b"y")).read_bytes() == b"y"

    def test_another_hash_than_the_cached_one_is_told(self, web, request):
        url = web.put("/one.gguf", b"x")
        get(url)
        request.getfixturevalue("no_network")
        with pytest.raises(SourceError) as caught:
            get(f"{url}#sha256={'0' * 64}", offline=True)
        assert caught.value.code == "source_mismatch"


def test_processes_share_a_cache(web):
    body = b"x" * 300_000
    url = web.put("/x.gguf", body)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        paths = list(pool.map(fetch, [url] * 4))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == body


def test_a_path_is_itself_and_kinds_are_known(tmp_path):
    assert fetch(tmp_path / "nothing") == tmp_path / "nothing"
    with pytest.raises(ParameterError):
        fetch("x", kind="image")


def test_a_base_that_is_one_gguf_file(web):
    file = Path(__file__).parents[1] / "data" / "truth" / "gguf" / "llama.base.f32.gguf"
    url = web.put("/models/llama.gguf", file.read_bytes())
    path = fetch(url, kind="base")
    assert path.name == "llama.gguf"
    assert open_base(path).decoder.layers == open_base(file).decoder.layers


@pytest.mark.parametrize("stem", ["llama", "a" * 90 + " llama", "m\u00f6del#1 %41"])
def test_a_base_in_several_gguf_files(web, tmp_path, stem):
    """Also where their names are too long, or of other characters, for the cache."""
    file = Path(__file__).parents[1] / "data" / "truth" / "gguf" / "llama.base.f32.gguf"
    first = split(file, tmp_path / stem, 3)
    for path in gguf_parts(first):
        web.put(f"/models/{quote(path.name)}", path.read_bytes())
    url = f"{web.url}/models/{quote(first.name)}?download=true"
    base = open_base(fetch(url, kind="base"))
    assert base.decoder.layers == open_base(file).decoder.layers
    assert [path.read_bytes() for path in base.files] == [
        path.read_bytes() for path in gguf_parts(first)
    ]
    assert open_base(fetch(url, kind="base", offline=True)).files == base.files


def test_parts_behind_a_url_that_are_not_all_there(web, tmp_path):
    file = Path(__file__).parents[1] / "data" / "truth" / "gguf" / "llama.base.f32.gguf"
    first = split(file, tmp_path / "m", 3)
    sizes = [path.stat().st_size for path in gguf_parts(first)]
    for path in gguf_parts(first)[:2]:
        web.put(f"/{path.name}", path.read_bytes())
    url = f"{web.url}/m-00001-of-00003.gguf"
    with pytest.raises(SourceError) as caught:
        fetch(url, kind="base", limits=Limits(**FAST, max_bytes=sum(sizes[:2]) - 1))
    assert caught.value.code == "source_too_large"
    with pytest.raises(SourceError, match=r"nothing at .*/m-00003-of-00003\.gguf"):
        get(url, kind="base")
    with pytest.raises(SourceError, match=r"m-00003-of-00003\.gguf is not in the cache"):
        get(url, kind="base", offline=True)
    with pytest.raises(SourceError, match="part 2 of 3") as caught:
        get(f"{web.url}/m-00002-of-00003.gguf", kind="base")
    assert caught.value.code == "source_unsupported"


def test_an_adapters_name_is_no_parts_name(web):
    assert get(web.put("/a-00002-of-00003.gguf", b"GGUF")).read_bytes() == b"GGUF"


def damaged(path):
    """One bit; size and time of writing as before."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def stored(cache):
    return {
        path: path.read_bytes() for path in cache.glob("downloads/[bt]*/**/*") if path.is_file()
    }


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("kind", ["blobs", "trees", "urls"])
def test_damaged_downloads_are_fetched_again(web, cache, monkeypatch, kind, linked):
    if not linked:

        def refuse(*args):
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    url = web.put_folder("/home", HOME)
    path = fetch(url)
    content = stored(cache)
    for file in [f for f in (cache / "downloads" / kind).rglob("*") if f.is_file()]:
        damaged(file)
    assert fetch(url) == path
    assert stored(cache) == content
    assert read_adapter(path).digest == read_adapter(HOME).digest


def test_damaged_downloads_are_no_answer_offline(web, cache, caplog):
    url = web.put_folder("/home", HOME)
    fetch(url)
    for file in (cache / "downloads/blobs").iterdir():
        damaged(file)
    with pytest.raises(SourceError) as caught:
        fetch(url, offline=True)
    assert caught.value.code == "offline"
    assert "is damaged" in caplog.text


def test_a_check_by_size_would_take_them(web, cache, monkeypatch):
    """The broken variant: what was there before."""
    url = web.put_folder("/home", HOME)
    path = fetch(url)
    for file in (cache / "downloads/blobs").iterdir():
        damaged(file)
    monkeypatch.setattr(Store, "holds", lambda self, sha256: self.blob(sha256).exists())
    monkeypatch.setattr("lorakit.sources.store._whole", lambda *args: True)
    assert fetch(url) == path
    assert any(
        (path / f.name).read_bytes() != f.read_bytes() for f in HOME.iterdir() if f.is_file()
    )


def test_a_record_names_no_file_outside(web, cache):
    """Of a hash that is a path, whatever it leads to."""
    url = web.put("/x.gguf", b"GGUF")
    fetch(url)
    (record,) = (cache / "downloads/urls").iterdir()
    (cache / "secret").write_bytes(b"mine")
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "sha256": "../../secret", "size": 4}))
    with pytest.raises(SourceError):
        fetch(url, offline=True)
    assert fetch(url).read_bytes() == b"GGUF"


def test_a_cache_that_may_only_be_read_serves_what_it_has(web, cache, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.EROFS, "read-only")

    url = web.put_folder("/home", HOME)
    path = fetch(url)
    for name in ("FileLock.acquire", "write_atomic", "new_folder"):
        monkeypatch.setattr(f"lorakit.sources.store.{name}", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert [fetch(url), fetch(url, offline=True)] == [path, path]


def test_an_export_behind_a_url(web, tmp_path):
    """As a page reads it: its graphs lie in a folder of it."""
    lorakit.export(
        demo.base_path(), tmp_path / "home", adapter=HOME, mode="merged", quantize="none",
        prove_it=False,
    )  # fmt: skip
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            web.put(f"/home/{path.relative_to(tmp_path / 'home').as_posix()}", path.read_bytes())
    with lorakit.open(f"{web.url}/home", threads=1) as model:
        assert model.base.exported.graph.parent.name == "onnx"
        assert model.complete("turn on", max_tokens=2).tokens
    assert get(f"{web.url}/home", kind="base", offline=True) == model.base.path
