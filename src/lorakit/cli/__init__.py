"""The command line: each command parses, calls the library, prints. One file per command."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

import lorakit
from lorakit.cli.output import error_json, error_line, print_json
from lorakit.errors import LorakitError

# Each is a module here with a function `command`, or with an `app` of several commands.
COMMANDS = (
    *("demo", "run", "chat", "inspect", "check", "convert", "combine", "resize", "extract"),
    *("merge", "unmerge", "quantize", "verify", "logits", "doctor", "cache"),
)


class _Commands(TyperGroup):
    """Commands by name, each imported when it is wanted: what one needs, the others do not load."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS, self)  # names only, for "did you mean"

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"lorakit.cli.{cmd_name}")
        if not hasattr(module, "command"):
            return get_command(module.app)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP)
        alone.command(cmd_name)(module.command)
        return get_command(alone)


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Commands,
    name="lorakit",
    help="LoRA adapters for language models, where the user is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(lorakit.__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the trace of an error (or set LORAKIT_DEBUG=1).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["LORAKIT_DEBUG"] = "1"


def main() -> None:
    """Run the command line; the process ends with 0, 1 (error), 2 (usage) or 130 (Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model may say what a terminal cannot show
    try:
        app(prog_name="lorakit")
    except LorakitError as error:
        if os.environ.get("LORAKIT_DEBUG"):
            traceback.print_exception(error)
        elif "--json" in sys.argv:
            print_json({"error": error_json(error)})
        print(error_line(error), file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a full disk under the output, say
        if os.environ.get("LORAKIT_DEBUG"):
            raise
        print(f"error [write_failed]: {error}", file=sys.stderr)
        sys.exit(1)
