"""What pyproject.toml promises, and what the tree may not hold."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from lorakit.engines.llama.binding.libraries import COMPILED, KNOWN, PACKAGES, WHEELS

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "scripts/build_llama.py"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


def test_the_llama_extra_installs_one_pinned_library_where_there_is_a_wheel():
    places = [*WHEELS, ("win32", "ARM64"), ("linux", "riscv64"), ("darwin", "riscv64")]
    chosen = {place: installs(EXTRAS["llama"], *place) for place in places}
    assert {place for place, found in chosen.items() if found} == WHEELS
    assert all(len(found) <= 1 for found in chosen.values())
    assert {name for found in chosen.values() for name in found} < set(PACKAGES)
    assert all(re.fullmatch(r"[\w-]+==[\d.]+;.*", line) for line in EXTRAS["llama"])
    assert "llama" in EXTRAS["all"][0]
    assert COMPILED not in "".join(EXTRAS["llama"]), "nothing is compiled"


def installs(lines, system, machine):
    """The packages that pip would install there."""
    found = [Requirement(line) for line in lines]
    place = {"sys_platform": system, "platform_machine": machine}
    return [line.name for line in found if line.marker is None or line.marker.evaluate(place)]


def test_the_version_that_is_compiled_is_named_in_one_place_and_where_users_read_it():
    line = re.search(r'PACKAGE, VERSION = "(.*)", "(.*)"', BUILD.read_text("utf-8"))
    assert line[1] == COMPILED
    assert f"{line[1]}=={line[2]}" in (ROOT / "docs/llama.md").read_text("utf-8")
    assert line[2] in "".join(KNOWN.values())


# Beside what is recorded with these packages: llama.cpp's own server, in a process of its own.
PEERS = {
    "llama_server.py",
    "serve_llama.py",
    "test_gguf_pair.py",
    "test_gguf_sampling.py",
    "test_docs.py",
    "test_llama_server.py",
}


def test_no_package_of_llama_cpp_is_imported():
    """Their libraries are used through the binding. llama-cpp-python's `Llama` takes one adapter,
    at construction, and reuses the KV cache across adapters."""
    for folder in ("src", "bench", "scripts", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text("utf-8")
            named = any(name in text for name in PACKAGES.values())  # to parse all takes long
            if named and "data" not in file.parts and file.name not in PEERS:
                assert not imported(ast.parse(text)) & {*PACKAGES.values()}, file


def imported(tree):
    """The names of top-level packages that are imported, or that pytest imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            found.add(
                ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else ""
            )
    return {name.partition(".")[0] for name in found}


def test_an_import_would_be_found():
    skipped = "def f():\n    pytest.importorskip('llama_cpp.llama_cpp', reason='')"
    for line in ("from llama_cpp import Llama", "import llama_cpp.llama_cpp as low", skipped):
        assert imported(ast.parse(line)) == {"llama_cpp"}


def test_where_llama_cpp_cannot_be_compiled_that_is_said(tmp_path):
    """Without a compiler, and in an environment that has none of it."""
    code = (
        "import runpy, importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError\n"
        "m.version = absent\n"
        f"runpy.run_path({str(BUILD)!r}, run_name='__main__')\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: llama.cpp is compiled here, and there is no C++ compiler")
    assert list(tmp_path.iterdir()) == []


def test_what_the_tests_run_with_is_pinned():
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for extra in ("dev", "llama", "torch", "oracles"):
        names = {re.match(r"[\w-]+", requirement)[0] for requirement in EXTRAS[extra]}
        assert names <= pinned, names - pinned


def test_tests_read_the_repository_alone():
    for file in (ROOT / "tests").rglob("*.py"):
        text = file.read_text("utf-8")
        if file != Path(__file__) and ".parents" in text:
            assert not list(above(ast.parse(text), file)), file


def above(tree, file):
    """Path(__file__).parents[n] where that lies above the repository."""
    depth = len(file.relative_to(ROOT).parts)  # parents[depth - 1] is the repository
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".parents"):
            number = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if "__file__" in ast.unparse(node.value) and not 0 <= (number or 0) < depth:
                yield ast.unparse(node)


def test_a_path_out_of_the_repository_would_be_found():
    file = ROOT / "tests" / "engines" / "cases.py"
    assert not list(above(ast.parse("Path(__file__).parents[2] / 'docs'"), file))
    assert list(above(ast.parse("Path(__file__).parents[3] / 'shared'"), file))


def test_nothing_is_imported_from_a_conftest():
    """There are several, and which one the name means depends on what was collected last."""
    for file in (ROOT / "tests").rglob("*.py"):
        assert not re.search(r"^(from|import) conftest\b", file.read_text("utf-8"), re.MULTILINE)
