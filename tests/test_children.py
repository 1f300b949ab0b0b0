"""Child processes: which program is started, when none is, and that it says that it has begun."""

import subprocess
import sys

import pytest

from lorakit import children
from lorakit.errors import EngineError

# A program of one file, which stands for a frozen one: sys.executable is the program itself.
APP = """#!{python} -S
import sys
sys.path += {paths}
sys.executable, sys.frozen = __file__, True
{support}
with open({log!r}, "a") as file:
    file.write("ran as itself\\n")
from lorakit import children
try:
    child = children.start("{module}", "{function}", "a word")
    print(child.communicate(timeout=50)[0], child.returncode)
except Exception as error:
    print(error)
"""
SUPPORT = "from lorakit.children import freeze_support; freeze_support()"
CLAIMED = "import lorakit.children; lorakit.children._supported = True"


@pytest.fixture
def app(tmp_path):
    """Runs such a program: what it prints, and how often it ran as itself."""
    path, log = tmp_path / "app", tmp_path / "log"

    def run(support, job=("lorakit.cli.output", "print_json")):
        log.write_text("", "utf-8")
        text = APP.format(
            python=sys.executable, paths=sys.path[1:], support=support, log=str(log),
            module=job[0], function=job[1],
        )  # fmt: skip
        path.write_text(text, "utf-8")
        path.chmod(0o755)
        done = subprocess.run([path], capture_output=True, text=True, check=True, timeout=100)
        return done.stdout, log.read_text("utf-8").count("ran as itself")

    return run


def say(*words):
    """What a child does."""
    print("child:", *words)


def test_a_function_runs_in_another_process_and_may_crash(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")  # as Windows has others than UTF-8
    child = children.start(__name__, "say", "two words", "ü")
    said, faults = child.communicate(timeout=60)
    assert (said, faults, child.returncode) == ("child: two words ü\n", "", 0)
    child = children.start("os", "abort")
    child.communicate(timeout=60)
    assert child.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="a first line names a program on POSIX alone")
def test_a_frozen_program_that_supports_it_is_its_own_child(app):
    said, runs = app(SUPPORT)
    assert said.split() == ['"a', 'word"', "0"]
    assert runs == 1, "the child ends before the program begins"


@pytest.mark.skipif(sys.platform == "win32", reason="a first line names a program on POSIX alone")
def test_one_that_does_not_is_never_started(app):
    said, runs = app("")
    assert "freeze_support" in said
    assert runs == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a first line names a program on POSIX alone")
def test_a_child_that_does_not_say_that_it_has_begun_is_none(app):
    said, runs = app(CLAIMED)
    assert "no child process can be started: freeze_support() too late" in said.replace(
        "this program calls lorakit.children.", ""
    )
    assert runs == 2, "the second one starts no third"


@pytest.mark.skipif(sys.platform == "win32", reason="a first line names a program on POSIX alone")
def test_a_frozen_child_runs_lorakits_own_functions_alone(app):
    said, _ = app(SUPPORT, ("os", "mkdir"))
    assert "no child process can be started" in said


def test_an_argument_alone_makes_no_child(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "argv", ["app", children.FLAG, "lorakit.children", "main", "x"])
    monkeypatch.setattr(children, "_supported", False)
    called = []
    monkeypatch.setattr(children, "main", called.append)
    children.freeze_support()
    assert (called, children.obstacle()) == ([], "")
    monkeypatch.setenv(children.VARIABLE, "1")
    with pytest.raises(SystemExit):
        children.freeze_support()
    assert called.pop() == ["lorakit.children", "main", "x"]
    monkeypatch.setattr(sys, "frozen", False)
    monkeypatch.setenv(children.VARIABLE, "1")
    children.freeze_support()
    assert not called, "Python is called otherwise"


@pytest.mark.parametrize(
    ("name", "is_python"),
    [
        ("python", True), ("python3.13", True), ("pythonw.exe", True), ("Python", True),
        ("python3.13t", True), ("pypy3.11", True), ("uwsgi", False), ("python-shell", False),
        ("blender", False), ("pythonista.exe", False),
    ],
)  # fmt: skip
def test_a_program_that_embeds_python_is_not_taken_for_it(name, is_python, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(sys, "executable", str(tmp_path / name))
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path / "prefix"))
    assert bool(children._python()) == is_python
    assert bool(children.obstacle()) != is_python
    own = tmp_path / "prefix" / ("python.exe" if sys.platform == "win32" else "bin/python3")
    own.parent.mkdir(parents=True)
    own.write_bytes(b"")
    found = tmp_path / name if is_python else own
    assert children._python() == str(found), "the Python that belongs to the library"


def test_what_the_system_refuses_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "python3").write_bytes(b"not a program")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(EngineError, match="no child process can be started"):
        children.start("os", "getpid")


def test_a_child_that_never_begins_is_not_awaited_for_ever(monkeypatch):
    monkeypatch.setattr(children, "PATIENCE", 0.5)
    monkeypatch.setattr(children, "_CODE", "import time; time.sleep(100)")
    with pytest.raises(EngineError, match="no child process can be started"):
        children.start("os", "getpid")


def test_a_module_in_the_working_folder_is_not_taken_for_another(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(7)", "utf-8")
    monkeypatch.chdir(tmp_path)
    child = children.start("json", "dumps", "a")
    child.communicate(timeout=60)
    assert child.returncode == 0
