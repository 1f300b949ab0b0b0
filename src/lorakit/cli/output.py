"""How the command line shows things: values as they are, errors in one line, JSON for programs.

A value (a path, a name from a file, a message) is text and nothing else: brackets in it are no
markup, `:smile:` no picture, no word of it is folded, so that it can be copied. Only this file and
progress.py write, and only they make rich's consoles and bars; a test holds the others to that.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from shutil import get_terminal_size
from subprocess import list2cmdline
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lorakit.errors import LorakitError

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_ITEMS = 3
LEAST = 20  # columns that a line is folded to
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")  # not tabs and lines
Styled = tuple[str, str]  # a text and rich's name of its style


@cache
def console() -> Console:
    """The console on standard output, made when a command first asks: rich is slow to import."""
    from rich.console import Console

    class Raising(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich would end the process with 1: `lorakit inspect | head` is no failure

    return Raising(highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(*parts: str | Styled) -> None:
    """Print one line of values, each as it is; (text, style) where a terminal shows styles."""
    if not any(isinstance(part, tuple) for part in parts):
        print(*(plain(part) for part in parts if isinstance(part, str)), sep="")
        return
    from rich.text import Text

    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    console().print(Text.assemble(*((plain(text), style) for text, style in pairs)))


def say_piece(piece: str, style: str = "") -> None:
    """Print a piece of a model's answer: as it is into a pipe or a file, harmless on a terminal."""
    if sys.stdout.isatty():
        piece = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), piece)
        if style:
            from rich.text import Text

            console().print(Text(piece, style), end="")
            return
    print(piece, end="", flush=True)


def read_line(prompt: str) -> str:
    """A line of standard input, without its end; the prompt stands on a terminal alone.

    Raises EOFError.
    """
    if sys.stdin.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def note(text: str) -> None:
    """What a user should know and did not ask for; beside the output, not in it."""
    _beside(f"note: {text}")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(plain(f"{time.strftime('%H:%M:%S')} {record.getMessage()}"), file=sys.stderr)


def show_log() -> None:
    """What the library logs, from INFO on, on standard error."""
    log = logging.getLogger("lorakit")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())


def ask(question: str) -> bool:
    """Whether the answer is yes; asked on standard error, as the output may go elsewhere."""
    print(f"{plain(question)} [y/N]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def patience(text: str, *, after: float = 1.5) -> Iterator[None]:
    """Say on a terminal what takes so long, if it does."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(after, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def error_line(error: LorakitError) -> str:
    """`error [code]: what; the first items (hint: what to do)`, in one line."""
    items = [*error.items[:SHOWN_ITEMS]]
    if len(error.items) > SHOWN_ITEMS:
        items.append(f"and {len(error.items) - SHOWN_ITEMS} more")
    text = f"error [{error.code}]: " + ": ".join(filter(None, [error.message, "; ".join(items)]))
    return plain(text + (f" (hint: {error.hint})" if error.hint else ""))


def _error_parts(error: LorakitError) -> tuple[str, str]:
    """What a terminal shows on lines of their own: what is wrong, and the hint."""
    hint = f" (hint: {plain(error.hint)})" if error.hint else ""
    return error_line(error).removesuffix(hint), hint[2:-1]


def say_error(error: LorakitError) -> None:
    """An error among the output; on a terminal folded between words, its hint apart."""
    if not sys.stdout.isatty():
        say(error_line(error))
        return
    wrong, hint = _error_parts(error)
    say_folded(wrong, "red")
    say_folded(hint, "dim")


def say_folded(text: str, style: str = "") -> None:
    """A sentence; on a terminal folded between words, from where its first word stands."""
    for line in _folded(text) if sys.stdout.isatty() else [text]:
        say((line, style) if style else line)


def _folded(text: str) -> list[str]:
    """A sentence as lines of the terminal; a word that is longer than one stays whole."""
    text, width = plain(text), max(LEAST, get_terminal_size().columns - 1)
    margin = " " * (len(text) - len(text.lstrip()))
    return wrap(
        text, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )


def print_error(error: LorakitError, *, json: bool) -> None:
    """An error where it belongs: on standard error, and for programs on standard output.

    It is one line; on a terminal folded between words, its hint apart.
    """
    if json:
        print_error_json(error)
    for part in _error_parts(error) if sys.stderr.isatty() else [error_line(error)]:
        _beside(part)


def _beside(text: str) -> None:
    """A sentence on standard error."""
    for line in _folded(text) if sys.stderr.isatty() else [plain(text)]:
        print(line, file=sys.stderr)


def print_error_json(error: LorakitError) -> None:
    print_json({"error": error_json(error)})


def error_json(error: LorakitError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "items": list(error.items),
        "hint": error.hint,
    }


def print_json(value: Any) -> None:
    print(json.dumps(value))


def plain(text: str) -> str:
    """Text that may come from a file, with its control characters spelled out: \\x1b.

    A name in an adapter must not move the cursor, colour the screen or set the terminal's title.
    """
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if text.isprintable() else "".join(shown)


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[str] = (),
    total: Sequence[str] | None = None,
) -> None:
    """Columns two spaces apart, numbers to the right, the titles in `left` to the left.

    A cell is never cut or folded, also where the terminal is narrow or a pipe has no width: rows
    that are too long for a terminal have their first cell above the others, and if that is not
    enough each cell has its title before it.
    """
    from rich.cells import cell_len

    lines = [[plain(cell) for cell in row] for row in (titles, *rows, *([total] if total else ()))]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    room = console().width if sys.stdout.isatty() else sum(widths) + 2 * len(widths)
    if sum(widths[1:]) + 2 * len(widths) - 2 > room:
        _print_pairs(lines, room, total=total is not None)
        return
    above = sum(widths) + 2 * len(widths) - 2 > room
    for number, cells in enumerate(lines):
        padded = [
            cell + gap if title in left else gap + cell
            for title, cell, width in zip(titles, cells, widths, strict=True)
            for gap in [" " * (width - cell_len(cell))]
        ]
        bold = number == 0 or (total is not None and number == len(lines) - 1)
        if above and cells[0]:
            say((cells[0], "bold" if bold else ""))
        shown = ["", *padded[1:]] if above else padded
        say(("  ".join(shown).rstrip(), "bold" if bold else ""))


def _print_pairs(lines: Sequence[Sequence[str]], room: int, *, total: bool) -> None:
    """Each row as its first cell, and below it titles with what they say, as many as fit a line."""
    from rich.cells import cell_len

    titles, *rows = lines
    if titles[0]:
        say((titles[0], "bold"))
    for number, cells in enumerate(rows):
        say((cells[0], "bold" if total and number == len(rows) - 1 else ""))
        at, parts = 0, list[str | Styled]()
        for title, cell in zip(titles[1:], cells[1:], strict=True):
            if not cell:
                continue
            width = 2 + cell_len(f"{title} {cell}")
            if parts and at + width > room:
                say(*parts)
                at, parts = 0, []
            at += width
            parts += ["  ", (title, "dim"), " ", cell]
        if parts:
            say(*parts)


def command_line(*words: str) -> str:
    """Words as they are typed: quoted where the system's shell needs it."""
    return list2cmdline(words) if os.name == "nt" else shlex.join(words)


def size(count: float) -> str:
    """Bytes for people: 224 KB, 1.2 MB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
