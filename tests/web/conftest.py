"""Node with transformers.js, and the modules of lorakit.js, for the tests of the browser's side."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from nodes import DEMO, SUFFIX, TRANSFORMERS, WEB, Node

import lorakit


@pytest.fixture(scope="session")
def plain_node(tmp_path_factory):
    """Node without packages."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    return Node(program, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def node(plain_node):
    """Node with transformers.js."""
    if not TRANSFORMERS.is_file():
        pytest.skip("transformers.js is not installed (make node)")
    return plain_node


@pytest.fixture
def broken_web(tmp_path):
    """A copy of the modules in which a mechanism is broken: {file: (text, its replacement)}."""

    def broken(changes: dict[str, tuple[str, str]]) -> Path:
        copy = tmp_path / "web"
        shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("vendor"))
        for name, (text, replacement) in changes.items():
            source = (copy / name).read_text("utf-8")
            assert source.count(text) == 1, f"{name} holds {text!r} {source.count(text)} times"
            (copy / name).write_text(source.replace(text, replacement), "utf-8")
        return copy

    return broken


def exported(folder: Path, *names: str, **options: Any) -> Path:
    """The demo's base with adapters, as `lorakit export` writes it; its proof has its own tests."""
    adapters = [DEMO / "adapters" / name for name in names]
    lorakit.export(DEMO / "base", folder, adapter=adapters, prove_it=False, **options)
    return folder


@pytest.fixture(scope="session")
def dynamic_export(tmp_path_factory):
    """With inputs for adapters, in every form."""
    folder = tmp_path_factory.mktemp("exports") / "dynamic"
    forms = ["none", *(form for form in SUFFIX if form != "fp32")]
    return exported(folder, mode="dynamic", quantize=forms)


@pytest.fixture(scope="session")
def merged_export(tmp_path_factory):
    """With the home adapter in the weights, in float32."""
    folder = tmp_path_factory.mktemp("exports") / "merged"
    return exported(folder, "home", quantize="none")


@pytest.fixture(scope="session")
def composed_export(tmp_path_factory):
    """With home and shop in it, to choose among."""
    folder = tmp_path_factory.mktemp("exports") / "composed"
    return exported(folder, "home", "shop", mode="composed", quantize="none")
