"""Node with transformers.js, and the modules of lorakit.js, for the tests of the browser's side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from lorakit.graph.composed import Composed
from lorakit.graph.web import Adapting, WebForm, build_web, with_inputs, without_adapters
from lorakit.graph.weights import FileStore
from lorakit.merge import merge

ROOT = Path(__file__).parents[2]
WEB = ROOT / "src/lorakit/web"
DEMO = ROOT / "src/lorakit/demo"
MODULES = ROOT / ".node/node_modules"  # `make node`
TRANSFORMERS = MODULES / "@huggingface/transformers/dist/transformers.node.mjs"


class Node:
    """Runs scripts of this folder: a JSON value in, a JSON value out."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._count = 0

    def run(
        self, script: str, given: Any, *, web: Path = WEB, timeout: float = 110, fails: bool = False
    ) -> Any:
        """What `node SCRIPT WEB IN OUT` writes to OUT; None if it fails and may. Else fails with
        what it printed."""
        self._count += 1
        source, target = (self._folder / f"{self._count}-{name}.json" for name in ("in", "out"))
        source.write_text(json.dumps(given), "utf-8")
        done = subprocess.run(
            [self._program, Path(__file__).with_name(script), web, source, target],
            env={**os.environ, "LORAKIT_TRANSFORMERS": str(TRANSFORMERS)},
            capture_output=True, text=True, encoding="utf-8", timeout=timeout,
        )  # fmt: skip
        if done.returncode and fails:
            return None
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


SUFFIX = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}
FORMS: dict[str, WebForm] = {"fp32": "none", **{name: name for name in SUFFIX if name != "fp32"}}


@pytest.fixture(scope="session")
def dynamic_export(tmp_path_factory):
    """The demo's base with inputs for adapters, in every form."""
    folder = tmp_path_factory.mktemp("dynamic")
    base = Base.open(DEMO / "base")
    for name in FORMS:
        build(base, folder, name, with_inputs(base.decoder))
    complete(base, folder, {"adapters": "dynamic"})
    return folder


@pytest.fixture(scope="session")
def merged_export(tmp_path_factory):
    """The demo's base with its home adapter in the weights, in float32."""
    folder, merged = (tmp_path_factory.mktemp(name) for name in ("merged", "checkpoint"))
    home = read_adapter(DEMO / "adapters/home")
    merge(DEMO / "base", [(home, 1.0)], merged / "base", dtype="f32")
    base = Base.open(merged / "base")
    build(base, folder, "fp32")
    complete(base, folder, {"adapters": "merged"})
    return folder


@pytest.fixture(scope="session")
def composed_export(tmp_path_factory):
    """The demo's base with home and shop beside its weights, chosen by a number."""
    folder = tmp_path_factory.mktemp("composed")
    base = Base.open(DEMO / "base")
    names = ["home", "shop"]
    adapters = [(read_adapter(DEMO / "adapters" / name), 1.0) for name in names]
    build(base, folder, "fp32", lambda writer, dtype: Composed(
        writer=writer, adapters=adapters, dtype=dtype, chosen=True
    ))  # fmt: skip
    complete(base, folder, {"adapters": "composed", "names": names})
    return folder


def build(base: Base, folder: Path, form: str, adapting: Adapting = without_adapters) -> None:
    """One ONNX file of a form, by transformers.js's name for it."""
    onnx = folder / "onnx"
    onnx.mkdir(exist_ok=True)
    stem = f"model{SUFFIX[form]}.onnx"
    store = FileStore(onnx, f"{stem}_data")
    model = build_web(base, FORMS[form], store, context=base.decoder.context, adapting=adapting)
    store.close()
    (onnx / stem).write_bytes(model)


def complete(base: Base, folder: Path, facts: dict[str, Any]) -> None:
    """What transformers.js reads beside the ONNX files; facts: what the page does."""
    for name in ("generation_config.json", "tokenizer.json"):
        shutil.copyfile(DEMO / "base" / name, folder / name)
    tokenizer = json.loads((DEMO / "base/tokenizer_config.json").read_text("utf-8"))
    template = (DEMO / "base/chat_template.jinja").read_text("utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**tokenizer, "chat_template": template})
    )
    onnx = sorted(file.name for file in (folder / "onnx").glob("*.onnx"))
    page = {
        "use_external_data_format": dict.fromkeys(onnx, 1),
        "dtype": "fp32",
        "lorakit": {"base": base.fingerprint, "tool_format": "functiongemma", **facts},
    }
    config = {**base.config, "transformers.js_config": page}
    (folder / "config.json").write_text(json.dumps(config))
