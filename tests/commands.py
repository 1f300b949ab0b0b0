"""Runs a command line in this process; tests/cli/test_cli.py runs processes."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from lorakit.cli import run_line
from lorakit.errors import LorakitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How it ended; `error` is what it raised, which ends a process with 1."""

    code: int
    stdout: str
    stderr: str
    error: LorakitError | None = None


def in_colour(monkeypatch):
    """Colours as on a terminal: the same for every test, as rich keeps a style's first codes."""
    for name, value in (("FORCE_COLOR", "1"), ("COLORTERM", "truecolor"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)


def invoke(*arguments, typed=""):
    """Run `lorakit ARGUMENTS`, with something typed on its standard input."""
    out, err = io.StringIO(), io.StringIO()
    code, error = 0, None
    with redirect_stdout(out), redirect_stderr(err), patch("sys.stdin", io.StringIO(typed)):
        try:
            run_line([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        except LorakitError as raised:
            code, error = 1, raised
    return Done(code=code, stdout=out.getvalue(), stderr=err.getvalue(), error=error)
