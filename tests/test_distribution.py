"""The wheel and the sdist: the same bytes from everywhere, all that a user needs, nothing else."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("hatchling", reason="the build backend is in lorakit[dev]")
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", ".gitignore")


def build(tree: Path, out: Path, *targets: str, **environment: str) -> dict[str, bytes]:
    """The built files, by name."""
    kept = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", out, *targets],
        cwd=tree, env={**kept, **environment}, check=True, capture_output=True,
    )  # fmt: skip
    return {file.name: file.read_bytes() for file in out.iterdir()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A checkout as another machine might have it: other modes and times, and stray files."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copyfile(ROOT / name, tree / name)
    shutil.copytree(
        ROOT / "src/lorakit",
        tree / "src/lorakit",
        ignore=shutil.ignore_patterns("__pycache__", "vendor"),  # see web/test_web_package.py
    )
    stray = tree / "src/lorakit/__pycache__/stray.pyc"
    for file in (tree / "downloaded.safetensors", tree / "tests/data/x.gguf", stray):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1000))
    for file in tree.rglob("*"):
        if file.is_file():
            file.chmod(0o600)
            os.utime(file, (1_000_000_000, 1_000_000_000))
    return tree


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    """What the checkout gives."""
    return build(tree, tmp_path_factory.mktemp("dist"), TZ="Asia/Tokyo", PYTHONHASHSEED="1")


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    (name,) = (name for name in built if name.endswith(".tar.gz"))
    (folder / name).write_bytes(built[name])
    with tarfile.open(folder / name) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # 3.11.4 and later
        archive.extractall(folder, **safe)
    return folder / name.removesuffix(".tar.gz")


def test_two_builds_are_the_same_bytes(built, unpacked, tmp_path):
    """From the checkout, and from its sdist on another day."""
    again = build(unpacked, tmp_path, TZ="America/New_York", PYTHONHASHSEED="2")
    assert len(built) == 2
    assert again == built


def test_a_date_in_the_files_would_be_found(built, tree, tmp_path):
    (other,) = build(tree, tmp_path, "-t", "wheel", SOURCE_DATE_EPOCH="1700000000").items()
    assert other[0] in built
    assert other[1] != built[other[0]]


def test_the_wheel_holds_the_package_whole_and_nothing_else(built, tree, tmp_path):
    (name,) = (name for name in built if name.endswith(".whl"))
    (tmp_path / name).write_bytes(built[name])
    held = set(zipfile.ZipFile(tmp_path / name).namelist())
    package = {
        file.relative_to(tree / "src").as_posix()
        for file in (tree / "src/lorakit").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"lorakit/demo/base/model.safetensors", "lorakit/py.typed"} <= package
    info = f"lorakit-{name.split('-')[1]}.dist-info/"
    assert held == package | {
        info + file
        for file in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }


def test_the_sdist_holds_what_a_wheel_is_made_of(unpacked):
    assert {file.name for file in unpacked.iterdir()} == {*FILES, "PKG-INFO", "src"}
    assert sum(file.stat().st_size for file in unpacked.rglob("*")) < 10 << 20


def test_version_and_licence_are_said_alike_everywhere():
    found = re.search(r'^__version__ = "(.+)"$', text("src/lorakit/__init__.py"), re.MULTILINE)
    dated = re.search(r"^## (\d\S*) - (\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.MULTILINE)
    citation = yaml.safe_load(text("CITATION.cff"))
    assert found[1] == dated[1] == citation["version"]
    assert dated[2] == str(citation["date-released"])
    assert PROJECT["license"] == citation["license"]
    assert PROJECT["urls"]["Source"] == citation["repository-code"]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")
