"""`open` with adapters: from anywhere, at a scale, and what happens when one fails."""

import asyncio
import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import lorakit
from lorakit import AdapterConfig, demo
from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.table import ENGINES
from lorakit.errors import (
    CapabilityError,
    LorakitError,
    MismatchError,
    ParameterError,
    SourceError,
)
from lorakit.model import open as opening
from lorakit.model.adapter_config import require_aliases
from lorakit.model.load import unused_name
from lorakit.sources.prune import entries

BASE, HOME, STYLE = demo.base_path(), demo.adapter_path("home"), demo.adapter_path("style")
DATA = Path(__file__).parents[1] / "data/truth/peft"
LIGHTS = [{"role": "user", "content": "turn the lights off in the kitchen"}]


def opened(**options):
    return lorakit.open(BASE, threads=1, **options)


def scales(model):
    return {info.name: info.scale for info in model.adapters}


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (None, {}),
        ([], {}),
        (str(HOME), {"home": 1.0}),
        (HOME, {"home": 1.0}),
        (AdapterConfig(HOME, scale=0.5), {"home": 0.5}),
        ([HOME, AdapterConfig(STYLE, scale=0)], {"home": 1.0, "style": 0.0}),
        ([HOME, HOME], {"home": 1.0, "home-2": 1.0}),
    ],
)
def test_adapters_are_loaded_and_active(adapter, expected):
    with opened(adapter=adapter) as model:
        assert scales(model) == expected
        twice = adapter == [HOME, HOME]
        assert [warning.code for warning in model.warnings] == ["same_adapter"] * twice


def test_an_adapter_active_under_two_names_is_told(caplog):
    same = "home and two are the same adapter: together it acts at the scale 1.5"
    with opened(adapter=[HOME, HOME]) as model:  # told in its warnings, and not again
        assert len(model.warnings) == 1
        assert [r for r in caplog.records if r.levelname == "WARNING"] == []
    with opened(adapter=HOME) as model:
        two = model.load_adapter(HOME, "two")
        model.load_adapter(STYLE, "style").apply()
        for act in (
            lambda: two.apply(0.5),
            lambda: model.apply({"home": 1.0, "two": 0.5}),
            lambda: asyncio.run(two.aapply(0.5)),
        ):
            model.apply({"home": 1.0, "two": 0.0})
            caplog.clear()
            act()
            assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [same]
        caplog.clear()
        two.apply(0.25)  # known already
        two.remove()
        model.apply({"home": 1.0, "style": 1.0, "two": 0.0})
        assert [r for r in caplog.records if r.levelname == "WARNING"] == []
        assert model.warnings == ()


@pytest.mark.parametrize("same", [HOME, STYLE])
def test_an_alias_of_two_adapters_is_refused(same):
    two = [AdapterConfig(HOME, alias="pirate"), AdapterConfig(same, alias="pirate")]
    with pytest.raises(ParameterError, match="two adapters are called 'pirate'"):
        lorakit.open("no/such/base", adapter=two)


def test_the_name_of_a_folder_is_no_alias():
    """The broken variant: two of one folder, the second of which is then home-2."""
    require_aliases([AdapterConfig(HOME), AdapterConfig(HOME), AdapterConfig(STYLE, alias="a")])


def test_an_adapter_from_memory():
    with opened(adapter=lorakit.read_adapter(HOME)) as model:
        assert scales(model) == {"adapter": 1.0}


def test_an_adapter_of_a_url_answers_as_the_local_one(web):
    url = web.put_folder("/home", HOME)
    with opened(adapter=AdapterConfig(url, source="url")) as model:
        (info,) = model.adapters
        assert (info.name, info.source) == ("home", url)
        answer = model.chat(LIGHTS, max_tokens=40)
        assert answer.tool_calls
        style = model.load_adapter(web.put_folder("/style", STYLE) + "/")
        assert style.name == "style"
        future = model.load_adapter(web.put_folder("/shop", demo.adapter_path("shop")), wait=False)
        assert future.result().name == "shop"
    with opened(adapter=HOME) as model:
        assert model.chat(LIGHTS, max_tokens=40).text == answer.text


def test_a_base_of_a_url(web):
    url = web.put_folder("/tiny", BASE)
    with lorakit.open(url, threads=1) as model:
        assert model.complete("hello", max_tokens=2).tokens
    asked = web.count
    with lorakit.open(url, threads=1, offline=True) as model:
        assert model.base.fingerprint
    assert web.count == asked


def test_the_default_raises_and_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(SourceError):
        opened(adapter=[HOME, tmp_path / "nothing"])
    assert not [t for t in set(threading.enumerate()) - before if t.is_alive()]


def test_going_on_with_the_base_is_a_choice_and_is_told(tmp_path, caplog):
    missing = AdapterConfig(tmp_path / "nothing", on_error="base")
    other = AdapterConfig(DATA / "llama/plain", on_error="base", source="local")
    with caplog.at_level(logging.WARNING, "lorakit"), opened(adapter=[missing, other]) as model:
        assert model.adapters == ()
        assert [w.code for w in model.warnings] == ["source_not_found", "adapter_mismatch"]
        assert model.warnings[0].adapter == str(tmp_path / "nothing")
        assert model.complete("hello", max_tokens=2).tokens
    assert len([r for r in caplog.records if "going on without" in r.message]) == 2
    with pytest.raises(MismatchError):
        opened(adapter=other.path)


def test_the_others_stay(tmp_path):
    with opened(adapter=[AdapterConfig(tmp_path / "no", on_error="base"), HOME]) as model:
        assert scales(model) == {"home": 1.0}
        assert len(model.warnings) == 1


def test_offline_holds_for_later_loads_too(web):
    url = web.put_folder("/home", HOME)
    with opened(offline=True) as model, pytest.raises(SourceError) as caught:
        model.load_adapter(url)
    assert caught.value.code == "offline"
    assert web.count == 0


def test_a_download_ends_with_its_model(web):
    """It has not the time to arrive: every piece waits for the model to close."""
    url = web.put_folder("/home", HOME)
    began, closed = threading.Event(), threading.Event()

    def progress(_):
        began.set()
        closed.wait(10)

    model = opened(progress=progress)
    future = model.load_adapter(url, wait=False)
    assert began.wait(10)
    model.close()
    closed.set()
    assert future.exception(10).code == "closed"


@pytest.mark.parametrize(
    "options",
    [
        {"source": "ftp"},
        {"mode": "static"},
        {"on_error": "ignore"},
        {"scale": float("inf")},
        {"scale": float("nan")},
        {"scale": "1"},
        {"scale": True},
    ],
)
def test_a_config_is_checked_when_it_is_made(options):
    with pytest.raises(ParameterError):
        AdapterConfig(HOME, **options)


def test_a_config_is_a_value():
    config = AdapterConfig("https://host/x?token=secret", scale=2)
    assert config == AdapterConfig("https://host/x?token=secret", scale=2)
    assert hash(config)
    assert "secret" not in repr(config)
    with pytest.raises(TypeError):
        AdapterConfig(HOME, "local")
    with pytest.raises(ParameterError):
        AdapterConfig(7)
    with pytest.raises(ParameterError):
        opened(adapter=7)


def test_adapters_of_one_name_are_told_apart():
    assert unused_name("a", {"a": 1.0, "a-2": 1.0}) == "a-3"


class TestMerge:
    def test_it_answers_as_the_merged_weights_do(self):
        config = AdapterConfig(HOME, mode="merge", scale=0.5)
        with opened(adapter=config) as model, opened(adapter=AdapterConfig(HOME, scale=0.5)) as two:
            assert model.adapters == ()
            (said,) = model.merged
            assert (said.name, said.source, said.scale) == ("home", str(HOME), 0.5)
            assert said.digest == lorakit.read_adapter(HOME).digest
            assert model.base.name == two.base.name
            ids = model.chat_prompt(LIGHTS)
            error = np.abs(model.logits(ids) - two.logits(ids)).max()
            assert error < 0.02  # merged weights are rounded to what the base is stored in
            assert np.abs(model.logits(ids) - two.logits(ids, adapters={})).max() > 1

    def test_it_is_made_once_and_listed_in_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
        adapters = [AdapterConfig(HOME, mode="merge"), STYLE]
        for again in (False, True):
            told = []
            with opened(adapter=adapters, progress=told.append) as model:
                assert (told == []) == again
                assert scales(model) == {"style": 1.0}
                assert [said.name for said in model.merged] == ["home"]
        (entry,) = [entry for entry in entries() if entry.kind == "merged"]
        assert entry.name == f"base + {HOME}:1"
        with opened(adapter=AdapterConfig(HOME, mode="merge", scale=2)):
            assert len([entry for entry in entries() if entry.kind == "merged"]) == 2

    def test_what_an_engine_refuses_can_be_merged(self, monkeypatch):
        def refused(*_):
            raise CapabilityError("no DoRA")

        monkeypatch.setattr("lorakit.engines.onnx.engine.require_applicable", refused)
        adapter = DATA / "llama/dora"
        with lorakit.open(DATA.parent / "bases/llama", threads=1) as model:
            with pytest.raises(CapabilityError):
                model.load_adapter(adapter)
            plain = model.logits([1, 2, 3])
        merged = AdapterConfig(adapter, mode="merge")
        with lorakit.open(DATA.parent / "bases/llama", threads=1, adapter=merged) as model:
            assert np.abs(model.logits([1, 2, 3]) - plain).max() > 1e-3

    def test_failures_raise_or_are_told(self, tmp_path):
        with pytest.raises(SourceError):
            opened(adapter=AdapterConfig(tmp_path / "no", mode="merge"))
        with pytest.raises(MismatchError):
            opened(adapter=AdapterConfig(DATA / "llama/plain", mode="merge"))
        survivors = [
            AdapterConfig(path, mode="merge", on_error="base")
            for path in (tmp_path / "no", DATA / "llama/plain", HOME)
        ]
        with opened(adapter=survivors) as model:
            assert [said.name for said in model.merged] == ["home"]
            assert [w.code for w in model.warnings] == ["source_not_found", "adapter_mismatch"]

    def test_what_cannot_be_merged_is_survived_too(self):
        base = DATA.parent / "bases/llama"
        config = {"path": DATA / "llama/alora", "mode": "merge"}
        with pytest.raises(LorakitError):
            lorakit.open(base, adapter=AdapterConfig(**config))
        with lorakit.open(
            base, threads=1, adapter=AdapterConfig(**config, on_error="base")
        ) as model:
            assert (model.merged, len(model.warnings)) == ((), 1)


@pytest.mark.parametrize("relative", ["base", "./base", "../here/base"])
def test_a_base_of_a_relative_path_stays_where_it_is(tmp_path, monkeypatch, relative):
    """The template, stop tokens and weights are read when they are needed, which may be later."""
    (tmp_path / "here").mkdir()
    shutil.copytree(BASE, tmp_path / "here/base")
    monkeypatch.chdir(tmp_path / "here")
    with lorakit.open(relative, threads=1) as model:
        monkeypatch.chdir(tmp_path)
        model.load_adapter(HOME).apply()
        assert model.base.path.is_absolute()
        with opened(adapter=HOME) as other:
            options = {"max_tokens": 8}
            assert model.chat(LIGHTS, **options).text == other.chat(LIGHTS, **options).text
        assert model.base.fingerprint


def test_a_path_that_is_kept_as_it_was_said_is_lost(tmp_path, monkeypatch):
    """The broken variant: the path of before, after the process went elsewhere."""
    shutil.copytree(BASE, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    base = Base.open("base")
    assert base.path == tmp_path / "base"
    assert all(file.is_absolute() for file in base.files)
    before = Path("base")
    monkeypatch.chdir("/")
    assert Dialogue(base.path, ENGINES["onnx"].tokenizer(base)).prompt(LIGHTS)
    with pytest.raises(LorakitError):
        Dialogue(before, ENGINES["onnx"].tokenizer(base)).prompt(LIGHTS)


def test_messages_show_a_path_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no base model at no/such/base"):
        lorakit.open("no/such/base")


@pytest.fixture
def without_pauses(monkeypatch):
    """Where nothing listens it is tried again after pauses; here there are none."""
    monkeypatch.setattr("lorakit.sources.download.time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize("named", ["localhost:1", "http://localhost:1", "localhost:1/v1"])
def test_the_host_of_a_server_says_how_its_api_is_named(named):
    with pytest.raises(SourceError) as error:
        lorakit.open(named)
    assert error.value.hint.startswith("for a server's API: http://localhost:1/v1 (or engine=")


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize("named", ["no/such:1/base", "no_such_base", "http://localhost:1/base"])
def test_what_may_be_no_host_says_nothing_of_servers(named):
    with pytest.raises(SourceError) as error:
        lorakit.open(named)
    assert "API" not in error.value.hint


def test_a_projector_of_a_relative_path_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"llama": LlamaOptions(mmproj="mmproj.gguf")}
    assert opening._options("llama", given, None, opening.fetch).mmproj == tmp_path / "mmproj.gguf"
    assert opening._options("llama", {}, None, opening.fetch) == LlamaOptions()


@pytest.mark.parametrize("where", ["open", "load_adapter", "waiting", "merge"])
def test_private_machines_are_fetched_from_where_that_is_said(monkeypatch, cache, where):
    """Every way to a download hands the word on, and nobody who did not say it has it."""
    asked = []

    def fetch_url(reference, kind, **options):
        asked.append(options["allow_private"])
        return HOME

    monkeypatch.setattr("lorakit.sources.web.fetch_url", fetch_url)
    url = "https://10.0.0.1/home"
    if where in ("open", "merge"):
        mode = "merge" if where == "merge" else "dynamic"
        for said in (False, True):
            with opened(adapter=AdapterConfig(url, mode=mode), allow_private=said) as model:
                model.load_adapter(url, "later")
        assert asked == [False, False, True, True]
        return
    with opened() as model:
        for number, said in enumerate((None, False, True)):
            loaded = model.load_adapter(
                url, f"a{number}", allow_private=said, wait=where != "waiting"
            )
            if where == "waiting":
                loaded.result()
    assert asked == [False, False, True]


@pytest.mark.parametrize("way", ["open", "fetch"])
def test_what_a_killed_process_left_in_the_cache_goes_with_the_next_run(web, cache, way):
    left = cache / "fingerprints/.x.0123456789ab.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    if way == "open":
        opened().close()
    else:
        lorakit.sources.fetch(web.put("/x.gguf", b"GGUF"))
    assert left.exists() == (os.name != "posix")  # elsewhere after a day


def test_adapters_with_scales_are_no_dict():
    with pytest.raises(ParameterError) as caught:
        lorakit.open(demo.base_path(), adapter={str(demo.adapter_path("home")): 0.5})
    assert "AdapterConfig" in caught.value.hint


def test_a_repository_without_its_prefix_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (lambda: lorakit.open("org/repo"), lambda: lorakit.read_adapter("org/repo")):
        with pytest.raises(SourceError) as caught:
            use()
        assert "hf:org/repo" in caught.value.hint
