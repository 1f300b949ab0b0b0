"""The programs of a page, run as a reader types them: top to bottom, in one folder.

Python blocks share a namespace, and a `text` block right below one is what it prints. A `console`
block holds command lines after `$`, and below each what it prints. `...` stands for anything.
"""

import contextlib
import io
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from lorakit.cli import run_line
from lorakit.cli.output import print_error
from lorakit.errors import LorakitError

BLOCK = re.compile(
    r"^```(?P<kind>python|console)\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
OPENED = re.compile(r"^```(?:python|console)$", re.MULTILINE)
CLOCK = re.compile(r" +\d+ ms\b")
# Beside lorakit, what a page may start: what it does with the words after its name.
Programs = Mapping[str, Callable[[list[str]], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A line after `$`, and what stands below it."""

    line: str
    shown: str


def run_page(text: str, page: str, programs: Programs | None = None) -> None:
    """Raises AssertionError where a program prints what is not shown, or a command fails unseen."""
    names: dict[str, object] = {"__name__": "page"}
    assert len(BLOCK.findall(text)) == len(OPENED.findall(text)), "a block is not closed"
    for block in BLOCK.finditer(text):
        if block["kind"] == "console":
            for typed in typed_in(block["code"]):
                run_typed(typed, programs or {})
            continue
        padding = "\n" * text.count("\n", 0, block.start("code"))  # errors name the page's line
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(padding + block["code"], page, "exec"), names)
        assert_shown(printed.getvalue(), block["shown"] or "", block["code"])


def typed_in(code: str) -> list[Typed]:
    """The command lines of a console block; one that ends with a backslash goes on."""
    assert code.startswith("$ "), "a console block begins with a command"
    parts = re.split(r"^\$ ", code.replace("\\\n", ""), flags=re.MULTILINE)[1:]
    lines = [part.partition("\n") for part in parts]
    return [Typed(line=line, shown=shown) for line, _, shown in lines]


def run_typed(typed: Typed, programs: Programs) -> None:
    """One command, which may read what `echo` says. Errors are output, as one sees them."""
    if into := re.fullmatch(r"echo (.+) > (\S+)", typed.line):
        Path(into[2]).write_text(" ".join(shlex.split(into[1])) + "\n", "utf-8")
        return
    told, pipe, line = typed.line.rpartition(" | ")
    name, *words = shlex.split(line, comments=True)
    if name in programs:
        programs[name](words)
        return
    assert name == "lorakit", f"a page cannot start {name}"
    assert not pipe or told.startswith("echo ")
    output = io.StringIO()
    said = " ".join(shlex.split(told)[1:]) + "\n" if pipe else ""
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        patch("sys.stdin", io.StringIO(said)),
        patch.dict(os.environ, {"COLUMNS": "80"}),
        _log_as_before(),
    ):
        try:
            run_line(words)
        except LorakitError as error:
            print_error(error, json=False)
        except SystemExit as end:
            if end.code:
                print(f"exit {end.code}")
    assert_shown(output.getvalue(), typed.shown, typed.line)


@contextlib.contextmanager
def _log_as_before() -> Iterator[None]:
    """`--verbose` is for one command."""
    log = logging.getLogger("lorakit")
    level, handlers = log.level, [*log.handlers]
    yield
    log.setLevel(level)
    log.handlers = handlers


def assert_shown(printed: str, shown: str, of: str = "") -> None:
    """Equal, but for what `...` stands for, and for what a clock said."""
    found, wanted = _everywhere(printed), _everywhere(shown).replace("...\n", "...")
    pattern = ".*?".join(re.escape(part) for part in wanted.split("..."))
    assert re.fullmatch(pattern, found, re.DOTALL), f"{of}\nprinted:\n{printed}\nshown:\n{shown}"


def _everywhere(text: str) -> str:
    """A column of times is as wide as the longest; Windows has paths of its own."""
    text = text.replace(os.sep, "/")
    return re.sub(r" +", " ", CLOCK.sub(" - ms", text)) if CLOCK.search(text) else text
