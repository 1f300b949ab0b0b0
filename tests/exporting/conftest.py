"""Folders to publish, and a Hub that knows their base."""

import shutil
from pathlib import Path

import pytest
from publishing import BASE

import lorakit
from lorakit import demo, read_adapter
from lorakit.training.bundle import Trained, write_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An export with its proof, of an adapter and a base that are paths of this machine."""
    place = tmp_path_factory.mktemp("users") / "someone"
    shutil.copytree(demo.adapter_path("home"), place / "home")
    shutil.copytree(demo.base_path(), place / "my base")
    adapter = {"home": str(place / "home")}
    return lorakit.export(
        place / "my base", place / "out", to="onnx", adapter=adapter, quantize="q8"
    ).output


@pytest.fixture
def out(made, tmp_path, monkeypatch):
    """A copy of it, in the home of a user."""
    home = tmp_path / "someone"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    shutil.copytree(made, home / "out")
    return home / "out"


@pytest.fixture
def home(tmp_path):
    """An adapter that somebody trained."""
    return Path(shutil.copytree(demo.adapter_path("home"), tmp_path / "home"))


@pytest.fixture
def hub(hub):
    hub.put(BASE, {"config.json": b"{}"}, private=False)
    return hub


@pytest.fixture
def trained(tmp_path):
    """A folder as a run leaves it, of a base that is a path here."""
    adapter = read_adapter(demo.adapter_path("home"))
    base = lorakit.Base.open(shutil.copytree(demo.base_path(), tmp_path / "base"))
    run = Trained(
        adapter=adapter, base=base, base_model=base.name, tools=[], declared=0.0, settings={},
        data=[], steps=1, seconds=1.0, measured={}, default_scale=0.8,
    )  # fmt: skip
    write_bundle(tmp_path / "home", run)
    return tmp_path / "home"
