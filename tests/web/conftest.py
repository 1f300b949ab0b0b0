"""Node with transformers.js, and the modules of lorakit.js, for the tests of the browser's side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "src/lorakit/web"
MODULES = ROOT / ".node/node_modules"  # `make node`
TRANSFORMERS = MODULES / "@huggingface/transformers/dist/transformers.node.mjs"


class Node:
    """Runs scripts of this folder: a JSON value in, a JSON value out."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._count = 0

    def run(self, script: str, given: Any, *, web: Path = WEB, timeout: float = 110) -> Any:
        """What `node SCRIPT WEB IN OUT` writes to OUT. Fails with what it printed."""
        self._count += 1
        source, target = (self._folder / f"{self._count}-{name}.json" for name in ("in", "out"))
        source.write_text(json.dumps(given), "utf-8")
        done = subprocess.run(
            [self._program, Path(__file__).with_name(script), web, source, target],
            env={**os.environ, "LORAKIT_TRANSFORMERS": str(TRANSFORMERS)},
            capture_output=True, text=True, encoding="utf-8", timeout=timeout,
        )  # fmt: skip
        assert done.returncode == 0, f"{script} failed:\n{done.stdout}\n{done.stderr}"
        return json.loads(target.read_text("utf-8"))


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
