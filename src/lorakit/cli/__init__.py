"""The command line: each command parses, calls the library, prints. One file per command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from textwrap import shorten
from typing import Any

import lorakit
from lorakit.cli.output import print_error
from lorakit.cli.signature import call, make_parser
from lorakit.errors import LorakitError, WriteError

# Each is a module here with a function `command`, or with COMMANDS, several of them by name.
COMMANDS = (
    *("demo", "run", "chat", "data", "train", "eval", "inspect", "check", "convert", "repair"),
    *("combine", "resize", "extract", "merge", "unmerge", "export", "push", "quantize"),
    *("verify", "sweep", "diff", "logits", "doctor", "cache"),
)
# They multiply little, or by threads of their own: OpenBLAS's would start, spin, and be idle.
ONE_THREAD = ("inspect", "check", "convert", "repair", "merge", "unmerge")
# What a write fails with when nobody reads any more; Windows has a word of its own for it.
_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)
LINE = 68  # characters of what a list of commands says about each
ABOUT = "LoRA adapters for language models, where the user is."


def main(pressed: Callable[[], bool] = lambda: False) -> None:
    """Run the command line; the process ends with 0, 1 (error), 2 (usage) or 130 (Ctrl-C).

    pressed: whether Ctrl-C was.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            make_utf8(stream)
    try:
        run_line(sys.argv[1:])
    except LorakitError as error:
        if isinstance(error, ImportError) and pressed():  # it broke an import, which says so
            raise KeyboardInterrupt from error
        if os.environ.get("LORAKIT_DEBUG"):
            sys.excepthook(type(error), error, error.__traceback__)
        print_error(error, json="--json" in sys.argv and not os.environ.get("LORAKIT_DEBUG"))
        sys.exit(1)
    except OSError as error:  # a full disk under the output, say
        if (
            error.filename is None and error.errno in _GONE
        ):  # nothing is left to say, at the end too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)  # `| head` has read what it wanted
        if os.environ.get("LORAKIT_DEBUG"):
            raise
        print_error(WriteError(str(error)), json="--json" in sys.argv)
        sys.exit(1)


def make_utf8(stream: TextIOWrapper) -> None:
    """UTF-8 in files and pipes, as from Python 3.15 on, unless PYTHONIOENCODING says otherwise.

    A terminal keeps its own encoding, and shows what it can of what a model says.
    """
    if not stream.isatty() and not os.environ.get("PYTHONIOENCODING"):
        stream.reconfigure(encoding="utf-8")
    # What is read and is not UTF-8 reaches the tokenizer, which refuses it by its position.
    stream.reconfigure(errors="replace" if stream.writable() else "surrogateescape")


def run_line(arguments: Sequence[str]) -> None:
    """Run one command line. Raises LorakitError, OSError, and SystemExit where it ends early.

    A command is imported when it is wanted: what one needs, the others do not load. (The name `run`
    is that of a module here.)
    """
    parser = make_parser("lorakit", ABOUT, "[OPTIONS] COMMAND [ARGS]...")
    parser.add_argument(
        "--debug", action="store_true", help="Show the trace of an error (or set LORAKIT_DEBUG=1)."
    )
    parser.add_argument(
        "--version", action="version", version=lorakit.__version__, help="Show the version."
    )
    chosen, name, rest = _choose(parser, arguments, dict.fromkeys(COMMANDS, _about))
    if chosen.debug:
        os.environ["LORAKIT_DEBUG"] = "1"
    if name in ONE_THREAD:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy reads it as it is imported
    module = import_module(f"lorakit.cli.{name}")
    if hasattr(module, "command"):
        call(module.command, f"lorakit {name}", rest)
        return
    inner = make_parser(f"lorakit {name}", module.ABOUT, "[OPTIONS] COMMAND [ARGS]...")
    found = {word: lambda word: _first_line(module.COMMANDS[word]) for word in module.COMMANDS}
    _, word, rest = _choose(inner, rest, found)
    call(module.COMMANDS[word], f"lorakit {name} {word}", rest)


def _choose(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    commands: Mapping[str, Callable[[str], str]],
) -> tuple[argparse.Namespace, str, Sequence[str]]:
    """The options before a command's name, the name, and what follows it."""
    count = next((n for n, word in enumerate(arguments) if word[:1] != "-"), len(arguments))
    if count == len(arguments) or {"-h", "--help"} & set(arguments[:count]):
        lines = [f"  {name:<8} {about(name)}" for name, about in commands.items()]
        parser.epilog = "\n".join(["commands:", *lines])
    chosen = parser.parse_args(arguments[:count])
    if count == len(arguments):
        parser.print_help()
        parser.exit(2)
    name = arguments[count]
    if name not in commands:
        parser.error(_unknown(name, list(commands)))
    return chosen, name, arguments[count + 1 :]


def _unknown(name: str, commands: Sequence[str]) -> str:
    from difflib import get_close_matches  # only here

    close = get_close_matches(name, commands)
    return f"there is no command {name!r}" + (f"; did you mean {' or '.join(close)}?" * bool(close))


def _about(name: str) -> str:
    """What a command does, in the first line of its help."""
    module = import_module(f"lorakit.cli.{name}")
    return _first_line(module.command) if hasattr(module, "command") else module.ABOUT


def _first_line(function: Callable[..., Any]) -> str:
    return shorten(function.__doc__ or "", LINE, placeholder="...")
