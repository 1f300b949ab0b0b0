"""What npm publishes and a wheel carries of the browser's side: what is wanted, as pinned."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lorakit

ROOT = Path(__file__).parents[2]
WEB = ROOT / "src/lorakit/web"
SCRIPT = ROOT / "scripts/web/vendor.py"
PINNED = json.loads((ROOT / "scripts/web/vendor.json").read_text("utf-8"))
VENDORED = ("transformers.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NPM = shutil.which("npm")


@pytest.fixture(scope="module")
def vendor():
    """scripts/web/vendor.py as a module."""
    spec = importlib.util.spec_from_file_location("vendor", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package() -> dict:
    return json.loads((WEB / "package.json").read_text("utf-8"))


@pytest.mark.skipif(NPM is None, reason="npm is not installed")
def test_npm_packs_the_modules_the_types_and_nothing_else(tmp_path):
    copy = tmp_path / "web"
    shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("vendor"))
    for stray in (
        "vendor/transformers.min.js",
        "notes.txt",
        "test/x.js",
        "node_modules/a/index.js",
    ):
        (copy / stray).parent.mkdir(parents=True, exist_ok=True)
        (copy / stray).write_text("x", "utf-8")
    packed = subprocess.run(
        [NPM, "pack", "--dry-run", "--json"], cwd=copy, capture_output=True, text=True, check=True
    )
    (found,) = json.loads(packed.stdout)
    modules = {file.name for file in WEB.iterdir() if file.suffix == ".js"}
    types = {"lorakit.d.ts", "serve.d.ts"}
    assert {file["path"] for file in found["files"]} == {
        *modules, *types, "README.md", "LICENSE", "package.json",
    }  # fmt: skip
    assert (found["name"], found["version"]) == ("lorakit", lorakit.__version__)
    assert found["unpackedSize"] < 400_000


def test_the_package_says_what_the_project_says():
    told = package()
    assert told["version"] == lorakit.__version__
    assert told["license"] == "Apache-2.0"
    assert (WEB / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "dependencies" not in told
    entries = [value for value in told["exports"].values() if isinstance(value, str)]
    entries += [
        path
        for value in told["exports"].values()
        if isinstance(value, dict)
        for path in value.values()
    ]
    assert all((WEB / entry).is_file() for entry in [told["types"], *entries])
    (pinned,) = (name for name in PINNED if name.startswith("@huggingface/transformers@"))
    assert (
        told["peerDependencies"]["@huggingface/transformers"].lstrip("^") == pinned.split("@")[-1]
    )


def test_modules_import_one_another_and_nothing_else():
    """No build step and no dependency: every import is a file beside it."""
    pattern = re.compile(
        r"""^(?:import|export)\b[^;]*?\bfrom\s+'([^']+)';|^import '([^']+)';""", re.M
    )
    for module in sorted(WEB.glob("*.js")):
        imports = [a or b for a, b in pattern.findall(module.read_text("utf-8"))]
        foreign = [name for name in imports if not (WEB / name).is_file()]
        allowed = ["node:fs", "node:path", "node:fs/promises"] if module.name == "local.js" else []
        assert [name for name in foreign if name not in allowed] == [], module.name


def test_types_name_what_the_entry_exports(plain_node):
    names = plain_node.run("exports.mjs", {})
    told = (WEB / "lorakit.d.ts").read_text("utf-8")
    declared = set(re.findall(r"^export (?:function|class|const) (\w+)", told, re.M))
    declared |= set(re.findall(r"^export interface (LoadedAdapter|Model)\b", told, re.M))
    assert set(names) == declared


@pytest.mark.skipif(sys.platform == "win32", reason="a first line names a program on POSIX alone")
def test_files_from_npm_are_placed_only_as_pinned(vendor, tmp_path, monkeypatch, capsys):
    """npm is a stand-in here that gives an archive; the real one is asked by `make dist`."""
    (tmp_path / "package/dist").mkdir(parents=True)
    (tmp_path / "package/dist/a.js").write_bytes(b"good")
    archive = tmp_path / "a.tgz"
    shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, "package")
    (tmp_path / "a.tar.gz").rename(archive)
    npm = tmp_path / "npm"
    npm.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nshutil.copy({str(archive)!r}, sys.argv[-1])\n"
    )
    npm.chmod(0o755)
    monkeypatch.setattr(vendor.shutil, "which", lambda name: str(npm))
    pins = {"a@1": {"dist/a.js": hashlib.sha256(b"good").hexdigest()}}
    target = tmp_path / "vendor"
    assert vendor.place(pins, target) == ["a.js"]
    assert (target / "a.js").read_bytes() == b"good"
    npm.unlink()  # it is right: nothing is fetched again
    assert vendor.place(pins, target) == []
    (target / "a.js").write_bytes(b"worn")
    npm.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nshutil.copy({str(archive)!r}, sys.argv[-1])\n"
    )
    npm.chmod(0o755)
    wrong = {"a@1": {"dist/a.js": hashlib.sha256(b"other").hexdigest()}}
    with pytest.raises(SystemExit, match="not what is pinned"):
        vendor.place(wrong, target)
    with pytest.raises(SystemExit, match="not what is pinned"):
        vendor.place({"a@1": {"dist/b.js": "0" * 64}}, target)
    assert (target / "a.js").read_bytes() == b"worn"
    assert vendor.place(pins, target) == ["a.js"]


def test_what_is_pinned_is_what_the_page_loads():
    names = {path.rpartition("/")[2] for files in PINNED.values() for path in files}
    opening = (WEB / "opening.js").read_text("utf-8")
    assert "transformers.min.js" in opening
    assert names == {
        "transformers.min.js",
        *(
            f"ort-wasm-simd-threaded{form}.{end}"
            for form in ("", ".asyncify")
            for end in ("mjs", "wasm")
        ),
    }
    assert all(
        re.fullmatch("[0-9a-f]{64}", sha) for files in PINNED.values() for sha in files.values()
    )


def test_a_wheel_carries_what_was_placed(tmp_path):
    pytest.importorskip("hatchling", reason="the build backend is in lorakit[dev]")
    tree = tmp_path / "tree"
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        ".gitignore",
    ):
        tree.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    (tree / "src/lorakit/web/vendor").mkdir(parents=True)
    for name in ("__init__.py", "web/lorakit.js"):
        shutil.copyfile(ROOT / "src/lorakit" / name, tree / "src/lorakit" / name)
    for name in (*VENDORED, "ort-wasm-simd-threaded.asyncify.wasm", ".placed"):
        (tree / "src/lorakit/web/vendor" / name).write_text(name, "utf-8")
    held = []
    for zone in ("Asia/Tokyo", "America/New_York"):
        out = tmp_path / zone.replace("/", "-")
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", out, "-t", "wheel"],
            cwd=tree, env={**os.environ, "TZ": zone}, check=True, capture_output=True,
        )  # fmt: skip
        (wheel,) = out.iterdir()
        held.append(wheel.read_bytes())
    vendored = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/vendor/" in name}
    assert vendored == set(VENDORED)
    assert held[0] == held[1]
