"""The command line: each command parses, calls the library, prints. One file per command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from shutil import get_terminal_size
from textwrap import fill

from lorakit.cli.hints import did_you_mean
from lorakit.cli.output import print_error, show_log
from lorakit.cli.signature import call
from lorakit.cli.table import COMMANDS, HELP, about, inner_parser, line_parser, module_of
from lorakit.cli.usage import Parser
from lorakit.errors import LorakitError, WriteError

# They multiply little, or by threads of their own: OpenBLAS's would start, spin, and be idle.
ONE_THREAD = ("inspect", "check", "convert", "repair", "merge", "unmerge")
# What a write fails with when nobody reads any more; Windows has a word of its own for it.
_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)


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
    known = {name: partial(about, name) for name in (*COMMANDS, HELP)}
    chosen, name, rest = _choose(line_parser(), arguments, known)
    if chosen.verbose:
        show_log()
    if chosen.debug:
        os.environ["LORAKIT_DEBUG"] = "1"
    if name == HELP:
        run_line([*(word for word in rest if word[:1] != "-"), "--help"])
        return
    if name in ONE_THREAD:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy reads it as it is imported
    module = module_of(name)
    if hasattr(module, "command"):
        call(module.command, f"lorakit {name}", rest)
        return
    inner = {word: partial(about, name, word) for word in module.COMMANDS}
    _, word, rest = _choose(inner_parser(name), rest, inner)
    call(module.COMMANDS[word], f"lorakit {name} {word}", rest)


def _choose(
    parser: Parser,
    arguments: Sequence[str],
    commands: Mapping[str, Callable[[], str]],
) -> tuple[argparse.Namespace, str, Sequence[str]]:
    """The options before a command's name, the name, and what follows it."""
    parser.asked = arguments
    count = next((n for n, word in enumerate(arguments) if word[:1] != "-"), len(arguments))
    if count == len(arguments) or {"-h", "--help"} & set(arguments[:count]):
        width = max(map(len, commands))
        columns = max(get_terminal_size().columns - 2, 20)  # as argparse folds
        lines = [
            fill(f"  {name:<{width}} {says()}", columns, subsequent_indent=" " * (width + 3))
            for name, says in commands.items()
        ]
        parser.epilog = "\n".join(["commands:", *lines])
    chosen = parser.parse_args(arguments[:count])
    if count == len(arguments):
        parser.print_help()
        parser.exit(2)
    name = arguments[count]
    if name not in commands:
        parser.error(f"there is no command {name!r}{did_you_mean(name, commands)}")
    return chosen, name, arguments[count + 1 :]
