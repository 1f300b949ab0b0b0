"""A run is as strict about skips as skips.py says; what must fail is tried in runs of its own."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import skips
from quick import PARAMETERS, SLOW

HERE = Path(__file__).parent
LIST = HERE / "skips.txt"
HERE_NOW = next(name for name, here in skips.PLACES.items() if here() and name.endswith("root"))
ELSEWHERE = {"root": "not-root", "not-root": "root"}[HERE_NOW]
SUITE = {
    "test_one.py": (
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_skipped(n): pytest.skip(f'for reason {n}')\n"
        "def test_passes(): pass\n"
    ),
    "test_two.py": "import pytest\npytest.importorskip('no_such_module')\n",
}
BOTH = f"{HERE_NOW} test_one.py::test_skipped x\n{HERE_NOW} test_two.py a whole file\n"


@pytest.fixture
def run(tmp_path):
    """pytest on SUITE with a list of skips: its exit status, and what it says."""

    def started(listed: str | None) -> tuple[int, str]:
        for name, text in SUITE.items():
            (tmp_path / name).write_text(text)
        strict = ()
        if listed is not None:
            (tmp_path / "list.txt").write_text(listed)
            strict = ("--strict-skips", "list.txt")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", *strict],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return started


def test_listed_skips_pass(run):
    status, said = run(f"# a comment\n\n{BOTH}{ELSEWHERE} test_one.py::test_passes elsewhere\n")
    assert status == 0, said
    assert "1 passed, 3 skipped" in said


def test_without_a_list_nothing_is_strict(run):
    status, said = run(None)
    assert status == 0, said


BROKEN = {
    "a test": (BOTH.splitlines()[1], 1, r"test_one.py::test_skipped\[2\] is skipped and not in"),
    "a file": (BOTH.splitlines()[0], 2, r"test_two.py is skipped and not in list.txt"),
    "of another place": (
        BOTH.replace(f"{HERE_NOW} test_one", f"{ELSEWHERE} test_one"), 1, "reason 1"
    ),
    "a longer name": (BOTH.replace("::test_skipped", "::test_skip"), 1, "not in list.txt"),
    "no longer skipped": (
        f"{BOTH}{HERE_NOW} test_one.py::test_passes once\n", 1, "nothing is skipped of"
    ),
    "no such test": (f"{BOTH}{HERE_NOW} test_three.py gone\n", 1, "test_three.py gone"),
    "an unknown place": (f"{BOTH}moon test_one.py::test_passes x\n", 4, "moon"),
    "no reason": (f"{HERE_NOW} test_one.py::test_skipped\n", 4, "not PLACE NODE REASON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_fails_for(name, run):
    listed, status, words = BROKEN[name]
    found, said = run(listed)
    assert found == status, said
    assert re.search(words, said), said


def test_the_list_names_tests_that_there_are():
    """Lines of other places too, which no run here would find out of date."""
    for line in skips.read(LIST):
        file, _, test = line.node.partition("::")
        text = (HERE.parent / file).read_text("utf-8")
        assert not test or f"\ndef {test}(" in text, line


def conditional(node, tree):
    """Node ids of what a file skips in some places, by a mark."""
    called = {name for name in ast.walk(tree) if "mark.skipif" in skipping(name)}
    marks = {
        target.id
        for child in tree.body
        if isinstance(child, ast.Assign) and child.value in called
        for target in child.targets
    }
    if "pytestmark" in marks:
        yield node
    for child in tree.body:
        if isinstance(child, ast.FunctionDef) and any(
            mark in called or ast.unparse(mark) in marks for mark in child.decorator_list
        ):
            yield f"{node}::{child.name}"


def skipping(node):
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_the_list_names_what_is_skipped_in_some_place():
    found = set()
    for file in HERE.rglob("test_*.py"):
        node = file.relative_to(HERE.parent).as_posix()
        text = file.read_text("utf-8")
        if "mark.skipif" in text:
            found |= set(conditional(node, ast.parse(text)))
    listed = {line.node for line in skips.read(LIST)}
    assert len(found) > 10
    assert {name for name in found if not {name, name.partition("::")[0]} & listed} == set()


def test_a_mark_is_found():
    text = (
        "import pytest\nposix = pytest.mark.skipif(True, reason='x')\n"
        "@posix\ndef test_a(): pass\n"
        "@pytest.mark.skipif(True, reason='x')\ndef test_b(): pass\n"
        "def test_c(): pass\n"
    )
    assert [*conditional("f", ast.parse(text))] == ["f::test_a", "f::test_b"]
    assert next(conditional("f", ast.parse(text.replace("posix", "pytestmark")))) == "f"


def test_quick_runs_are_as_without_extras(tmp_path):
    names = ("torch", "llama_cpp", "xllamacpp", "mlx", "json")
    (tmp_path / "test_found.py").write_text(
        f"import importlib.util\nfound = [n for n in {names} if importlib.util.find_spec(n)]\n"
        "def test_found(): assert found == ['json']\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout


def test_what_quick_runs_leave_out_is_there():
    for path in SLOW:
        file, _, name = path.partition("::")
        assert (HERE / file).exists(), path
        assert not name or f"\ndef {name}(" in (HERE / file).read_text("utf-8"), path


def test_quick_runs_leave_out_single_tests_and_take_few_of_many_parameters():
    slow = next(path for path in sorted(SLOW) if "::" in path)
    file = slow.partition("::")[0]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", file]
    found = []
    for option in ([], ["--quick"]):
        done = subprocess.run(
            [*command, *option], cwd=HERE, capture_output=True, text=True, check=False
        )
        names = re.findall(r"^tests/(\S+?::\w+)", done.stdout, re.MULTILINE)
        found.append({name: names.count(name) for name in names})
    everything, quick = found
    assert everything.keys() - quick.keys() == {path for path in SLOW if f"{file}::" in path}
    assert max(everything.values()) > PARAMETERS >= max(quick.values())
