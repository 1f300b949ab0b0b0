"""The command line: each command parses, calls the library, prints. One file per command."""

from __future__ import annotations

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated

import typer

import lorakit
from lorakit.cli import chat as chat
from lorakit.cli import check as check
from lorakit.cli import combine as combine
from lorakit.cli import convert as convert
from lorakit.cli import demo as demo
from lorakit.cli import doctor as doctor
from lorakit.cli import extract as extract
from lorakit.cli import inspect as inspect
from lorakit.cli import logits as logits
from lorakit.cli import resize as resize
from lorakit.cli import run as run
from lorakit.cli import verify as verify
from lorakit.cli.output import error_json, error_line, print_json
from lorakit.errors import LorakitError

app = typer.Typer(
    name="lorakit",
    help="LoRA adapters for language models, where the user is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    demo, run, chat, inspect, check, convert, combine, resize, extract, verify, logits, doctor,
):  # fmt: skip
    app.command(module.__name__.rpartition(".")[2])(module.command)


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
