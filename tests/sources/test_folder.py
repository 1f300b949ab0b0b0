"""Folders behind URLs: adapters and bases, file by file; and offline mode without a socket."""

import hashlib
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit import demo, read_adapter
from lorakit.base import Base
from lorakit.errors import BaseModelError, ParameterError, SourceError
from lorakit.gguf_base import open_base
from lorakit.sources import Limits, fetch
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


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_a_file_is_no_adapter(web, missing):
    url = web.put_folder("/home", HOME)
    del web.pages[f"/home/{missing}"]
    with pytest.raises(SourceError, match=f"has no {missing}") as caught:
        get(url)
    assert caught.value.code == "source_not_found"


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
