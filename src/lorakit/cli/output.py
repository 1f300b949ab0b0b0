"""How the command line shows things: errors in one line, JSON for programs."""

from __future__ import annotations

import json
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

    return globals().setdefault(name, Console(highlight=False, soft_wrap=True))


def error_line(error: LorakitError) -> str:
    """`error [code]: what; the first items (hint: what to do)`, in one line."""
    items = [*error.items[:SHOWN_ITEMS]]
    if len(error.items) > SHOWN_ITEMS:
        items.append(f"and {len(error.items) - SHOWN_ITEMS} more")
    text = f"error [{error.code}]: " + ": ".join(filter(None, [error.message, "; ".join(items)]))
    return " ".join((text + (f" (hint: {error.hint})" if error.hint else "")).split())


def error_json(error: LorakitError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "items": list(error.items),
        "hint": error.hint,
    }


def print_json(value: Any) -> None:
    print(json.dumps(value))


def size(count: float) -> str:
    """Bytes for people: 224 KB, 1.2 MB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
