"""lorakit chat: a conversation in the terminal, with adapters that change between the turns."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from lorakit.cli.answering import Answering
from lorakit.cli.chatting.commands import run_command, show_adapters
from lorakit.cli.chatting.completions import completions
from lorakit.cli.chatting.conversation import Chat, explained
from lorakit.cli.chatting.functions import SUFFIX as PYTHON
from lorakit.cli.chatting.functions import Functions, read_functions
from lorakit.cli.chatting.history import HistoryFile, history_path
from lorakit.cli.chatting.lines import Lines, PlainLines, read_message
from lorakit.cli.chatting.settings import require_counted
from lorakit.cli.output import say_error, say_folded
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    CalibrationOption,
    RunArgument,
    read_tools,
)
from lorakit.cli.running import RunningAnywhere, open_with
from lorakit.cli.signature import option
from lorakit.errors import LorakitError, ParameterError
from lorakit.model.fitting import WhenFull
from lorakit.model.model import Model

END = ("/quit", "/exit", "/bye")


def command(
    answering: Answering,
    base: RunArgument = None,
    adapter: AdapterOption = None,
    tools: Annotated[
        Path | None,
        option(
            help="What the model may call: a JSON file of declarations; or a Python file, which "
            "is run, and whose functions are called for the model, each call after a question.",
        ),
    ] = None,
    allow_tools: Annotated[
        bool, option("--allow-tools", help="Run the functions of --tools FILE.py without asking.")
    ] = False,
    declare: Annotated[
        bool,
        option(
            "--declare/--no-declare",
            help="Whether the prompt declares the functions; not for an adapter that was trained "
            "without [default: --declare].",
        ),
    ] = True,
    when_full: Annotated[
        WhenFull | None,
        option(
            "--when-full",
            "--context-full",
            help="What becomes of a conversation that the context has no room for: its oldest "
            "turns are dropped or summarised [default: drop; stop on a server].",
        ),
    ] = None,
    history: Annotated[
        bool,
        option(
            "--history/--no-history",
            help="Keep what is typed, for Up and Ctrl-R next time; LORAKIT_HISTORY says where "
            "[default: --history].",
        ),
    ] = True,
    calibration: CalibrationOption = None,
    *,
    running: RunningAnywhere,
    reading: Reading,
) -> None:
    """Chat; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends."""
    keywords = answering.keywords
    functions = _functions(tools, allow_tools, declare)
    schemas = read_tools(tools) if functions is None else functions.declarations
    path = history_path() if history else None
    with open_with(base, adapter, running, reading, calibration=calibration) as model:
        chosen = when_full or _when_full(model)
        require_counted(model, chosen, "--when-full stop")
        session = model.session(
            system=answering.system,
            tools=schemas,
            when_full=chosen,
            **keywords,
        )
        chat = Chat(model=model, session=session, functions=functions)
        lines = _lines(chat, None if path is None else HistoryFile(path))
        say_folded(f"{model.name}; /help lists the commands, Ctrl-D ends", "dim")
        if own := answering.own(model):
            say_folded(own, "dim")
        if model.adapters:
            show_adapters(chat)
        _talk(chat, lines)


def _functions(tools: Path | None, allow: bool, declare: bool) -> Functions | None:
    """Those of a Python file."""
    if tools is not None and tools.suffix == PYTHON:
        return read_functions(tools, declare=declare, all=allow)
    if allow or not declare:
        option = "--allow-tools" if allow else "--no-declare"
        raise ParameterError(f"{option} is for functions", hint="give --tools FILE.py")
    return None


def _when_full(model: Model) -> WhenFull:
    """A server counts the tokens of a conversation itself."""
    return "stop" if model.capabilities.engine == "api" else "drop"


def _lines(chat: Chat, history: HistoryFile | None) -> Lines:
    """An editor, where there is a terminal that can move its cursor."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        return PlainLines()
    from lorakit.cli.chatting.terminal import TerminalLines  # slow; only terminals need it

    return TerminalLines(history, lambda typed: completions(chat, typed))


def _talk(chat: Chat, lines: Lines) -> None:
    """Line by line, to the end. Ctrl-C where nothing is typed asks before it leaves."""
    asked = False
    while True:
        try:
            said = read_message(lines, chat.prefilled)
        except EOFError:
            return
        except KeyboardInterrupt:
            if asked:
                return
            asked = True
            say_folded("(Ctrl-C again leaves, and so does Ctrl-D)", "dim")
            continue
        asked, chat.prefilled = False, ""
        if said in END:
            return
        try:
            _answer(chat, said)
        except LorakitError as error:
            say_error(explained(error, chat))
        except KeyboardInterrupt:  # while something else than an answer took its time
            say_folded("(stopped)", "dim")


def _answer(chat: Chat, said: str) -> None:
    if said.startswith("/") and not said.startswith("//"):
        run_command(chat, said)
    elif said:
        chat.say(said[1:] if said.startswith("//") else said)
