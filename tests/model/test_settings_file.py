"""lorakit.toml: each field, what is refused in it, where it is looked for, and what beats it."""

import logging
import shutil
import socket
from dataclasses import fields
from importlib import util
from pathlib import Path

import pytest

import lorakit
from lorakit import demo
from lorakit.model.adapter_config import AdapterConfig
from lorakit.model.settings import (
    KEYS,
    NAMED,
    Settings,
    find_settings,
    read_settings,
    wanted,
    within,
)

URL = "https://host.test/v1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """The working directory is not the one of the file."""
    monkeypatch.delenv(NAMED, raising=False)
    monkeypatch.delenv("LORAKIT_API_KEY", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail("asked"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()

    def written(text):
        (folder / "lorakit.toml").write_text(text)
        return folder / "lorakit.toml"

    return written


def read(write, text):
    return read_settings(write(text))


# Fields.


@pytest.mark.parametrize("runtime", ["auto", "onnx", "llama", "torch", "api"])
def test_runtime_chooses_the_model_and_the_engine(write, runtime):
    place = f'"{URL}"' if runtime == "api" else '"a"'
    said = read(write, f'runtime = "{runtime}"\nmodels.{runtime} = {place}')
    assert said.runtime == runtime
    base, engine = said.model()
    assert (str(base), engine) == (
        URL if runtime == "api" else str(said.folder / "a"),
        None if runtime == "auto" else runtime,
    )


ALL = '[models]\ntorch = "t"\nllama = "l.gguf"\nonnx = "o"\napi = "https://host.test/v1"\n'


def test_auto_is_the_first_that_is_installed(write, monkeypatch):
    there = {"onnxruntime", "xllamacpp", "transformers"}
    monkeypatch.setattr(util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.delenv("LORAKIT_LLAMA_LIB", raising=False)
    said = read(write, ALL)
    assert said.model() == (said.folder / "l.gguf", "llama")  # torch lacks torch
    there.remove("xllamacpp")
    assert said.model() == (said.folder / "o", "onnx")
    monkeypatch.setenv("LORAKIT_LLAMA_LIB", "/a/library.so")
    assert said.model() == (said.folder / "l.gguf", "llama")
    monkeypatch.delenv("LORAKIT_LLAMA_LIB")
    there.clear()
    assert said.model() == (URL, "api")
    alone = read(write, '[models]\ntorch = "t"')
    assert alone.model() == (alone.folder / "t", "torch")  # whose error says what is missing
    assert read(write, f'{ALL}auto = "any"').model() == (said.folder / "any", None)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("bases/tiny", "{folder}/bases/tiny"),
        ("../tiny.gguf", "{folder}/../tiny.gguf"),
        ("/bases/tiny", "/bases/tiny"),
        ("hf:org/repo@main/inside", "hf:org/repo@main/inside"),
        ("https://host.test/base/", "https://host.test/base/"),
        ("~/tiny", str(Path("~/tiny").expanduser())),
    ],
)
def test_references_are_relative_to_the_file(write, reference, found):
    said = read(write, f"models.onnx = '{reference}'")
    assert str(said.model()[0]) == found.format(folder=said.folder)


def test_a_source_says_what_a_relative_reference_is():
    assert within(Path("/a"), "org/repo", "huggingface") == "org/repo"
    assert within(Path("/a"), "hf:x", "local") == Path("/a/hf:x")


ADAPTER = {  # each field of AdapterConfig, as TOML
    "path": '"home"',
    "source": '"local"',
    "mode": '"merge"',
    "scale": "0.5",
    "absolute_scale": "2",
    "alpha": "16",
    "mlx_version": '"0.30.1"',
    "partial": "true",
    "allow_pickle": "true",
    "on_error": '"base"',
    "alias": '"lights"',
    "text": '"base"',
}


def test_no_field_of_an_adapter_is_forgotten():
    assert list(ADAPTER) == [each.name for each in fields(AdapterConfig) if each.init]


@pytest.mark.parametrize("field", ADAPTER)
def test_each_field_of_an_adapter_is_read(write, field):
    told = {"path": '"home"', field: ADAPTER[field]}
    said = read(write, f"adapter = {{{', '.join(f'{k} = {v}' for k, v in told.items())}}}")
    (config,) = said.adapters
    expected = {"true": True}.get(ADAPTER[field]) or eval(ADAPTER[field])
    assert getattr(config, field) == expected
    assert said.folder.is_absolute()


def test_several_adapters_and_a_fallback(write):
    said = read(write, f'fallback = "{URL}"\n[[adapter]]\npath = "a"\n[[adapter]]\npath = "b"\n')
    assert [config.path for config in said.adapters] == ["a", "b"]
    assert said.fallback == URL
    assert read(write, "").adapters is None
    assert read(write, "adapter = []").adapters == ()


# What is refused.

WRONG = {
    'runtme = "onnx"': "runtme is not known; did you mean runtime",
    "[server]": "server is not known; there are runtime, models, adapter, fallback",
    'models.onx = "a"': "models.onx is not known; did you mean onnx",
    'adapter = {path = "a", scales = 1}': "adapter.scales is not known; did you mean scale",
    'runtime = "gpu"': "runtime is auto, onnx, llama, torch, api, not 'gpu'",
    "runtime = 3": "runtime is auto",
    "runtime = []": "runtime is auto",
    'models = "a"': "models is a table",
    "models.onnx = 3": "models.onnx is a text, not 3",
    'models.onnx = ""': "models.onnx: an empty reference",
    'models.onnx = "ftp://a/b"': "models.onnx: ",
    'models.onnx = "https://me:pa55@host/b"': "models.onnx: ",
    'models.api = "bases/tiny"': "models.api: ",
    'models.api = "http://host.test/v1"': "models.api: ",
    "fallback = true": "fallback is a text, not True",
    'fallback = "host/v1"': "fallback: ",
    'fallback = "https://me:pa55@host/v1"': "fallback: ",
    'adapter = "home"': "adapter is a table such as {path = ...}, not 'home'",
    "adapter = [3]": "adapter 1 is a table",
    "adapter = {}": "adapter.path is missing",
    "adapter = {path = 3}": "adapter: path must be",
    'adapter = {path = "a", scale = "1"}': "adapter: scale must be",
    'adapter = {path = "a", scale = nan}': "adapter: scale must be",
    'adapter = {path = "a", mode = "static"}': "adapter: mode is dynamic or merge",
    'adapter = {path = "a", on_error = 1979-05-27}': "adapter: on_error is raise or base",
    'adapter = {path = "a", partial = 1}': "adapter: partial must be",
    'adapter = {path = "a b", source = "huggingface"}': "adapter: ",
    'api_key = "sk-1"': "api_key: no secrets here; a server's key is LORAKIT_API_KEY's",
    'models.token = "sk-1"': "models.token: no secrets here",
    'adapter = {path = "a", "hf-token" = "sk-1"}': "adapter.hf-token: no secrets here",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said(write, text):
    with pytest.raises(lorakit.ParameterError) as caught:
        read(write, text)
    (fault,) = caught.value.items
    assert fault.startswith(WRONG[text])
    assert "lorakit.toml" in caught.value.message
    assert "sk-1" not in str(caught.value)
    assert "pa55" not in str(caught.value)


def test_a_mark_of_utf8_and_the_line_ends_of_windows_are_no_fault(write):
    place = write("")
    place.write_bytes(b'\xef\xbb\xbfruntime = "onnx"\r\n[models]\r\nonnx = "a"\r\n')
    assert read_settings(place).runtime == "onnx"


def test_all_faults_come_at_once(write):
    with pytest.raises(lorakit.ParameterError) as caught:
        read(write, 'a = 1\nruntime = 2\n[models]\nb = "c"\n[[adapter]]\n[[adapter]]\npath = 1')
    assert len(caught.value.items) == 5


def test_no_toml_is_said_with_its_line(write):
    with pytest.raises(lorakit.FormatError, match="line 2"):
        read(write, 'runtime = "onnx"\nmodels\n')
    with pytest.raises(lorakit.FormatError, match="deeply"):
        read(write, "runtime = " + "[" * 4000)
    with pytest.raises(lorakit.FormatError, match="a line of more than"):
        read(write, "a" + ".a" * 30_000 + " = 1")
    with pytest.raises(lorakit.FormatError, match="larger"):
        read(write, "#" * (1 << 16) + "\n\n")
    place = write("")
    place.write_bytes(b"\xff\xfe")
    with pytest.raises(lorakit.FormatError, match="UTF-8"):
        read_settings(place)
    with pytest.raises(lorakit.SourceError):
        read_settings("nowhere.toml")
    with pytest.raises(lorakit.SourceError):
        lorakit.open(settings=Path.cwd())


# Where it is looked for.


def test_a_file_is_read_where_it_is_named_alone(write, monkeypatch):
    place = write(f"models.onnx = '{demo.base_path()}'")
    monkeypatch.chdir(place.parent)
    with pytest.raises(lorakit.ParameterError, match="no base to open") as caught:
        lorakit.open()
    assert NAMED in caught.value.hint
    assert find_settings() is None
    assert find_settings(here=True) == Path("lorakit.toml")
    monkeypatch.setenv(NAMED, "other.toml")
    assert find_settings(here=True) == Path("other.toml")
    with pytest.raises(lorakit.SourceError):
        lorakit.open()
    monkeypatch.setenv(NAMED, str(place))
    with lorakit.open() as model:
        assert model.runtime_name == "onnx"
    write("nonsense = 1")
    lorakit.open(demo.base_path()).close()  # a base alone reads none
    with pytest.raises(lorakit.ParameterError, match="cannot be used"):
        lorakit.open(demo.base_path(), settings=place)


# Opening with it.


def test_open_takes_its_base_its_adapters_and_their_scales(write, caplog):
    caplog.set_level(logging.INFO, "lorakit")
    place = write("models.onnx = 'base'\n[[adapter]]\npath = 'adapters/home'\nscale = 0.5\n")
    shutil.copytree(demo.base_path(), place.parent / "base")
    shutil.copytree(demo.adapter_path("home"), place.parent / "adapters/home")
    with lorakit.open(settings=place) as model:
        assert [(one.name, one.scale) for one in model.adapters] == [("home", 0.5)]
        assert model.base.path == place.parent / "base"
    assert f"settings from {place}" in caplog.messages
    with lorakit.open(settings=place, adapter=demo.adapter_path("style")) as model:
        assert [one.name for one in model.adapters] == ["style"]
    with lorakit.open(demo.base_path(), settings=place, adapter=[]) as model:
        assert model.base.path == demo.base_path()
        assert model.adapters == ()


def test_an_adapter_that_may_fail_and_one_that_is_merged(write):
    place = write(
        f"models.onnx = '{demo.base_path()}'\n"
        "[[adapter]]\npath = 'nowhere'\non_error = 'base'\n"
        f"[[adapter]]\npath = '{demo.adapter_path('home')}'\nmode = 'merge'\n"
    )
    with lorakit.open(settings=place) as model:
        assert [warning.code for warning in model.warnings] == ["source_not_found"]
        assert [merged.name for merged in model.merged] == ["home"]


def test_a_keyword_beats_the_file(write):
    place = write(f'runtime = "torch"\nfallback = "{URL}"\nadapter = {{path = "home"}}\n{ALL}')
    said = wanted(None, None, None, None, place)
    folder = place.parent
    assert (said.base, said.engine, said.fallback) == (folder / "t", "torch", URL)
    assert (said.adapters[0].path, said.folder) == ("home", folder)
    other = wanted(None, "llama", ["b"], "https://other.test/v1", place)
    assert (other.base, other.engine) == (folder / "l.gguf", "llama")
    assert (other.adapters[0].path, other.folder) == ("b", None)
    assert other.fallback == "https://other.test/v1"
    based = wanted("mine", None, None, None, place)
    assert (based.base, based.engine, based.on_server) == ("mine", "torch", False)
    assert wanted(URL, None, None, None, place).on_server
    assert wanted(None, "api", None, None, place).base == URL
    with pytest.raises(lorakit.ParameterError, match="no model for the runtime api"):
        wanted(None, "api", None, None, write('models.onnx = "o"'))
    with pytest.raises(lorakit.ParameterError, match="no model for the runtime auto"):
        wanted(None, None, None, None, write(""))


def test_the_file_has_the_keys_that_it_says():
    assert {"runtime", "models", "fallback"} <= {each.name for each in fields(Settings)}
    assert set(KEYS) == {"runtime", "models", "adapter", "fallback"}
