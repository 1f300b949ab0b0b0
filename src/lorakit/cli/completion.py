"""lorakit completion: a script by which a shell completes commands, options, choices and files."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from lorakit.cli.completing import bash, fish, zsh
from lorakit.cli.completing.table import Entry, entry
from lorakit.cli.output import say
from lorakit.cli.signature import argument, make_parser, parser_of
from lorakit.cli.table import (
    COMMANDS,
    HELP,
    about,
    functions,
    inner_parser,
    line_parser,
    module_of,
)

Shell = Literal["bash", "zsh", "fish"]
SCRIPTS = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}


def command(
    shell: Annotated[Shell, argument(help=f"One of {', '.join(get_args(Shell))}.")],
) -> None:
    """Print a script that completes commands, options, choices and files in your shell.

    bash: source <(lorakit completion bash); its first lines say where to keep it.
    """
    for line in SCRIPTS[shell](entries()).splitlines():
        say(line)


def entries() -> list[Entry]:
    """All commands, as their parsers have them, and the words before them."""
    found = [entry(words, parser_of(each, f"lorakit {words}")) for words, each in functions()]
    several = [name for name in COMMANDS if not hasattr(module_of(name), "command")]
    for name in several:
        inner = {word: about(name, word) for word in module_of(name).COMMANDS}
        found.append(entry(name, inner_parser(name), inner))
    top = {name: about(name) for name in (*COMMANDS, HELP)}
    helped = entry(HELP, make_parser(f"lorakit {HELP}", "", ""), dict.fromkeys(COMMANDS, ""))
    return [entry("", line_parser(), top), *found, helped]
