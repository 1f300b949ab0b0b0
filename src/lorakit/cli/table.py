"""Which commands there are, what each does in a line, and the parsers before a command's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from textwrap import shorten
from types import ModuleType
from typing import Any

import lorakit
from lorakit.cli.signature import VERBOSE, make_parser
from lorakit.cli.usage import Parser

# Each is a module here with a function `command`, or with COMMANDS, several of them by name.
COMMANDS = (
    *("demo", "run", "chat", "data", "train", "eval", "inspect", "check", "convert", "repair"),
    *("combine", "resize", "extract", "merge", "unmerge", "export", "push", "quantize"),
    *("verify", "sweep", "diff", "logits", "doctor", "cache", "completion"),
)
HELP = "help"  # a word in the place of a command: what follows it is shown, not run
LINE = 64  # characters of what a list of commands says about each
ABOUT = "LoRA adapters for language models, where the user is."
USAGE = "[OPTIONS] COMMAND [ARGS]..."


def line_parser() -> Parser:
    """The parser of what stands before a command."""
    parser = make_parser("lorakit", ABOUT, USAGE)
    parser.add_argument(
        "--debug", action="store_true", help="Show the trace of an error (or set LORAKIT_DEBUG=1)."
    )
    parser.add_argument("--verbose", action="store_true", help=VERBOSE)
    parser.add_argument(
        "-V", "--version", action="version", version=lorakit.__version__, help="Show the version."
    )
    return parser


def inner_parser(name: str) -> Parser:
    """The parser of what stands between a word like `cache` and its commands."""
    return make_parser(f"lorakit {name}", module_of(name).ABOUT, USAGE)


def module_of(name: str) -> ModuleType:
    """A command's module; what it needs, the others do not load."""
    return import_module(f"lorakit.cli.{name}")


def about(name: str, word: str = "") -> str:
    """What a command does, in the first line of its help."""
    if name == HELP:
        return "Show the help of a command."
    module = module_of(name)
    if word:
        return _first_line(module.COMMANDS[word])
    return _first_line(module.command) if hasattr(module, "command") else str(module.ABOUT)


def functions() -> Iterator[tuple[str, Callable[..., None]]]:
    """Every command by its words, such as "cache list". Loads all of their modules."""
    for name in COMMANDS:
        module = module_of(name)
        if hasattr(module, "command"):
            yield name, module.command
        else:
            yield from ((f"{name} {word}", each) for word, each in module.COMMANDS.items())


def _first_line(function: Callable[..., Any]) -> str:
    return shorten(function.__doc__ or "", LINE, placeholder="...")
