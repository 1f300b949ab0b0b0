"""`lorakit chat --tools FILE.py`: functions of a file, each call after a question."""

import io
import sys

import pytest

import lorakit
from commands import invoke
from lorakit import demo
from lorakit.chat.calls import ToolCall
from lorakit.cli.chatting.commands import run_command
from lorakit.cli.chatting.conversation import Chat
from lorakit.cli.chatting.functions import Functions, read_functions
from lorakit.errors import FormatError, ParameterError, SourceError

LIGHTS = "turn the lights off in the kitchen"
CALLED = 'set_lights(room="kitchen", state="off")'
SOURCE = '''
"""My lamps."""
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal
from os import getcwd

STATES = {}

@dataclass
class Later:
    minutes: int

def set_lights(room: str, state: Literal["on", "off"], later: Later | None = None) -> str:
    """Switch the lights."""
    STATES[room] = state
    return "done"

def _hidden(x): ...
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lamps.py"
    path.write_text(SOURCE, "utf-8")
    yield path
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("lorakit_tools_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1) as model:
        for name in ("home", "style"):
            model.load_adapter(demo.adapter_path(name))
        model.apply({"home": 1.0, "style": 1.0})
        yield model


@pytest.fixture
def chat(model, file):
    functions = read_functions(file, declare=False)
    functions.asked = True
    return Chat(model=model, session=model.session(), functions=functions)


def said(chat, monkeypatch, capsys, line, *typed):
    """What is shown for a line, where something is typed for the questions."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{each}\n" for each in typed)))
    run_command(chat, line) if line.startswith("/") else chat.say(line)
    return capsys.readouterr().out


def states(chat):
    return chat.functions.callees["set_lights"].function.__globals__["STATES"]


def test_public_functions_are_the_tools(file):
    assert list(read_functions(file).callees) == ["set_lights"]
    file.write_text(SOURCE + "\n__all__ = ['set_lights', 'getcwd']\n", "utf-8")
    assert list(read_functions(file).callees) == ["set_lights", "getcwd"]
    file.write_text("from lorakit import Tool\nt = Tool(print, name='say', parameters={})", "utf-8")
    assert list(read_functions(file).callees) == ["say"]


def test_a_call_is_run_after_yes(chat, monkeypatch, capsys):
    out = said(chat, monkeypatch, capsys, LIGHTS, "y")
    assert out.splitlines() == [CALLED, "  done", "Aye, done, matey!"]
    assert states(chat) == {"kitchen": "off"}
    assert [message["role"] for message in chat.session.messages] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert chat.pending() == []


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["n"], "error: the user does not allow this call"),
        ([""], "error: the user does not allow this call"),
        ([], "error: the user does not allow this call"),
        (["it is too dark"], "error: it is too dark"),
    ],
)
def test_a_call_is_not_run_after_anything_else(chat, monkeypatch, capsys, typed, told):
    out = said(chat, monkeypatch, capsys, LIGHTS, *typed)
    assert told in out
    assert states(chat) == {}
    assert chat.session.messages[2]["content"] == told


def test_always_asks_no_more(chat, monkeypatch, capsys):
    said(chat, monkeypatch, capsys, LIGHTS, "a")
    said(chat, monkeypatch, capsys, "turn the lights on in the hall")
    assert states(chat) == {"kitchen": "off", "hall": "on"}


def test_of_several_calls_a_question_says_which_it_is_of(chat, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    call = ToolCall(name="set_lights", arguments={"room": "\x1b[31m"})
    for several, shown in ((False, ""), (True, 'set_lights(room="\\u001b[31m")\n')):
        chat.functions.several = several
        chat.functions.approve(call)
        assert capsys.readouterr().out == shown


def test_retry_and_edit_run_functions_too(chat, monkeypatch, capsys):
    said(chat, monkeypatch, capsys, LIGHTS, "n")
    out = said(chat, monkeypatch, capsys, "/retry", "y")
    assert "Aye, done, matey!" in out
    assert len(chat.session.messages) == 4
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    chat.edit("turn the lights on in the hall")
    assert states(chat) == {"kitchen": "off", "hall": "on"}
    assert len([m for m in chat.session.messages if m["role"] == "user"]) == 1


def test_ctrl_c_at_the_question_takes_the_turn_back(chat, monkeypatch, capsys):
    def interrupted(call):
        raise KeyboardInterrupt

    monkeypatch.setattr(Functions, "approve", lambda self, call: interrupted(call))
    out = said(chat, monkeypatch, capsys, LIGHTS)
    assert "stopped" in out
    monkeypatch.undo()
    assert said(chat, monkeypatch, capsys, "/reset") is not None
    assert "Aye" in said(chat, monkeypatch, capsys, LIGHTS, "y")


def test_ctrl_c_in_a_call_says_what_goes_on(chat, file, monkeypatch, capsys):
    file.write_text(SOURCE.replace("STATES[room] = state", "raise KeyboardInterrupt"), "utf-8")
    chat.functions = read_functions(file, declare=False, all=True)
    out = said(chat, monkeypatch, capsys, LIGHTS)
    assert "(set_lights was begun, and is left to itself)" in out
    assert chat.session.messages == []
    chat.functions.all = False
    assert "left to itself" not in said(chat, monkeypatch, capsys, LIGHTS, "n")


def test_what_a_full_context_drops_is_said(chat, monkeypatch, capsys):
    chat.session.when_full = "drop"
    chat.session.sampling = lorakit.SamplingParams(max_tokens=20)
    filling = [
        {"role": "user", "content": "hello " * 120},
        {"role": "assistant", "content": "Yes."},
    ]
    chat.session.messages[:] = [dict(each) for each in filling * 4]
    out = said(chat, monkeypatch, capsys, LIGHTS, "y")
    assert "(the context is full: the oldest" in out


def test_the_tools_command(chat, file, monkeypatch, capsys):
    assert "set_lights(room, state, later)" in said(chat, monkeypatch, capsys, "/tools")
    said(chat, monkeypatch, capsys, "/tools off")
    assert chat.functions is None
    assert chat.session.tools is None
    said(chat, monkeypatch, capsys, f"/tools '{file}'")
    assert list(chat.functions.callees) == ["set_lights"]


def test_a_pipe_runs_nothing_unless_it_is_allowed(file):
    start = ("chat", demo.base_path(), "--threads", 1, "-a", demo.adapter_path("home"))
    done = invoke(*start, "--tools", file, "--no-declare", typed=LIGHTS)
    assert (done.code, done.error) == (0, None)
    assert "nobody is here to allow this call; --allow-tools runs them" in done.stdout
    assert "\n  done\n" not in done.stdout
    done = invoke(*start, "--tools", file, "--no-declare", "--allow-tools", typed=LIGHTS)
    assert f"{CALLED}\n  done\n" in done.stdout


@pytest.mark.parametrize("flag", ["--allow-tools", "--no-declare"])
def test_flags_of_functions_want_functions(flag):
    done = invoke("chat", demo.base_path(), flag)
    assert isinstance(done.error, ParameterError)
    assert done.error.hint == "give --tools FILE.py"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", r"lamps.py, line 1: invalid syntax"),
        ("\n\nx = 1 / 0\n", r"lamps.py, line 3: ZeroDivisionError: division by zero"),
        ("def g():\n    raise KeyError('a')\ng()\n", r"lamps.py, line 2: KeyError: 'a'"),
        ("import nothing_like_it\n", r"lamps.py, line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", r"lamps.py, line 2: SystemExit: 3"),
        ("x = 1\n", r"lamps.py defines no function"),
        ("__all__ = ['f']\n", r"lamps.py: __all__ names what is not there"),
        ("__all__ = 3\n", r"lamps.py: __all__ is a list of names, not 3"),
        ("def __getattr__(name): raise ValueError\n", r"lamps.py defines no function"),
        ("\ndef f(x): ...\n", r"lamps.py: the functions cannot be tools"),
    ],
)
def test_a_faulty_file(file, source, message):
    file.write_text(source, "utf-8")
    with pytest.raises(FormatError, match=message) as error:
        read_functions(file)
    assert error.value.hint or error.value.items


def test_a_file_is_compiled_as_it_stands(file):
    file.write_text("def f(x: int): ...\nassert f.__annotations__ == {'x': int}\n", "utf-8")
    assert list(read_functions(file).callees) == ["f"]


def test_a_fault_of_a_function_has_its_line(file):
    file.write_text("\ndef f(x): ...\n", "utf-8")
    with pytest.raises(FormatError) as error:
        read_functions(file)
    assert error.value.items[0].startswith("line 2: f: parameter x has no annotation")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SourceError):
        read_functions(tmp_path / "gone.py")


def test_nobody_is_asked_of_what_is_allowed(file):
    functions = read_functions(file, all=True)
    assert functions.approve(ToolCall(name="set_lights")) is True
