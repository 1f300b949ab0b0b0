"""Child processes: which program is started, when none is, and that it says that it has begun."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def customized(tmp_path, monkeypatch):
    """Lets each child run this first, as a tracer or an administrator would."""

    def customize(text):
        (tmp_path / "sitecustomize.py").write_text(text, "utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)

    return customize


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_child_may_say_much_before_and_after_it_has_begun(stream, customized, monkeypatch):
    customized(f"import sys; print('x' * 300_000, file=sys.{stream}, flush=True)")
    monkeypatch.setattr(children, "PATIENCE", 30.0)
    child = children.start(__name__, "talk", stream)
    said, faults = child.communicate(timeout=60)
    assert child.returncode == 0
    assert said == ("y" * 300_000 if stream == "stdout" else "")
    assert faults == ("x" * 300_000 + "\n" + "y" * 300_000 if stream == "stderr" else "")


def talk(stream):
    getattr(sys, stream).write("y" * 300_000)


def test_a_pipe_that_nobody_reads_would_stop_it(customized, monkeypatch):
    customized("import sys; print('x' * 300_000, file=sys.stderr, flush=True)")
    monkeypatch.setattr(children, "PATIENCE", 2.0)
    read = children.Child._read

    def half(child, pipe, text):
        if text is not child._said:
            child.process.wait()
        read(child, pipe, text)

    monkeypatch.setattr(children.Child, "_read", half)
    with pytest.raises(EngineError, match="no child process can be started"):
        children.start("os", "getpid")


@pytest.mark.parametrize("flush", [True, False])
def test_what_is_said_without_an_end_of_line_hides_no_beginning(flush, customized):
    customized(f"print('hello', end='', flush={flush})")
    child = children.start(__name__, "say", "a")
    assert child.communicate(timeout=60) == ("child: a\n", "")


def test_what_a_child_says_instead_is_in_the_error(customized):
    customized("import os; os.write(2, b'no licence\\n'); os._exit(3)")
    with pytest.raises(EngineError, match="no licence"):
        children.start("os", "getpid")
    customized("import os; os._exit(3)")
    with pytest.raises(EngineError, match="it ended with 3"):
        children.start("os", "getpid")


def where():
    """What a child looks for, and where."""
    import numpy

    import lorakit

    print(json.dumps([lorakit.__file__, numpy.__file__, sys.path]))


FOUND = """
import os, sys
{before}
from lorakit import children
import lorakit, numpy
{after}
child = children.start("test_children", "where")
print(lorakit.__file__, numpy.__file__, *child.communicate(timeout=60), sep="\\n")
"""
HOME = str(Path(children.__file__).parents[1])
HERE = str(Path(__file__).parent)


def find(options, folder, before="", after="", entries=sys.path):
    """A program that starts a child: what both of them import, and where the child looks."""
    path = f"sys.path += {[entry for entry in entries if entry not in ('', HERE)] + [HERE]}"
    program = FOUND.format(before=f"{path}; {before}", after=after)
    done = subprocess.run(
        [sys.executable, *options, "-c", program], cwd=folder, capture_output=True, text=True,
        check=False, timeout=100, env=dict(os.environ, PYTHONPATH=""),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, numpy, line, *_ = done.stdout.splitlines()
    theirs, their_numpy, looked = json.loads(line)
    assert (theirs, their_numpy) == (ours, numpy)
    return ours, looked


@pytest.mark.parametrize("options", [["-S"], ["-I", "-S"], ["-I"], ["-E", "-s"], []])
def test_the_child_imports_what_its_parent_does(options, tmp_path):
    _, looked = find(options, tmp_path)
    assert str(tmp_path) not in looked


def test_it_finds_a_lorakit_that_came_from_the_working_folder(tmp_path):
    others = [entry for entry in sys.path if entry != HOME]
    _, looked = find(["-S"], HOME, entries=others, after=f"os.chdir({str(tmp_path)!r})")
    assert looked[0] == HOME


def test_a_module_in_the_working_folder_of_later_is_not_taken(tmp_path):
    for name in ("numpy", "json", "typing", "lorakit"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)", "utf-8")
    later = f"os.chdir({str(tmp_path)!r}); os.environ['PYTHONPATH'] = '.'"
    find([], HERE, "sys.path[:0] = ['', '.']", later)


def test_the_one_that_is_loaded_is_taken_before_one_that_came_to_be_first(tmp_path):
    (tmp_path / "lorakit").mkdir()
    (tmp_path / "lorakit/__init__.py").write_text("raise SystemExit(7)", "utf-8")
    find([], HERE, after=f"sys.path.insert(0, {str(tmp_path)!r})")


def test_entries_that_python_passes_over_or_that_hold_a_separator(tmp_path, monkeypatch):
    odd = tmp_path / f"a{os.pathsep}b ü"
    odd.mkdir()
    (odd / "only_here.py").write_text("def hello(): print('hello')", "utf-8")
    monkeypatch.setattr(sys, "path", [Path("/a"), None, 3, str(odd), *sys.path])
    child = children.start("only_here", "hello")
    assert child.communicate(timeout=60) == ("hello\n", "")


@pytest.mark.parametrize("words", [[], ["lorakit.children"], ["os", "getpid"]])
def test_a_program_that_is_called_as_a_child_for_nothing_ends(words, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "argv", ["app", children.FLAG, *words])
    monkeypatch.setenv(children.VARIABLE, "1")
    with pytest.raises(SystemExit, match="takes a module of lorakit's"):
        children.freeze_support()
