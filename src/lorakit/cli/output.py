"""How the command line shows things: errors in one line, JSON for programs."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lorakit.errors import LorakitError

if TYPE_CHECKING:
    from rich.console import Console

    console: Console
SHOWN_ITEMS = 3


def __getattr__(name: str) -> Any:
    """`console`, made when a command first asks for it: rich is slow to import."""
    if name != "console":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    # No markup: `[llama]` in a hint, or brackets in a path, are text.
    return globals().setdefault(name, Console(highlight=False, soft_wrap=True, markup=False))


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
    return plain(" ".join((text + (f" (hint: {error.hint})" if error.hint else "")).split()))


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

    A cell is never cut or folded, also where the terminal is narrow or a pipe has no width.
    """
    from rich.cells import cell_len
    from rich.text import Text

    lines = [[plain(cell) for cell in row] for row in (titles, *rows, *([total] if total else ()))]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, cells in enumerate(lines):
        padded = [
            cell + gap if title in left else gap + cell
            for title, cell, width in zip(titles, cells, widths, strict=True)
            for gap in [" " * (width - cell_len(cell))]
        ]
        bold = number == 0 or (total is not None and number == len(lines) - 1)
        __getattr__("console").print(Text("  ".join(padded).rstrip(), style="bold" if bold else ""))


def size(count: float) -> str:
    """Bytes for people: 224 KB, 1.2 MB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
