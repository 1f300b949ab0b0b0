"""lorakit cache: what is in the cache, and removing it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated

from lorakit.cli.output import ask, print_json, print_table, say, size
from lorakit.cli.references import JsonOption
from lorakit.cli.signature import option
from lorakit.errors import ParameterError
from lorakit.files.cache import cache_root
from lorakit.sources import prune as store
from lorakit.sources.prune import Entry

YesOption = Annotated[bool, option("--yes", "-y", help="Do not ask.")]
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
PERIODS = (("day", 86400), ("hour", 3600), ("minute", 60))

ABOUT = "Show and empty the cache."


def show(json: JsonOption = False) -> None:
    """List what is in the cache: kind, size, last use, what it is of."""
    found = store.entries()
    total = sum(entry.size for entry in found)
    if json:
        listed = [entry.to_dict() for entry in found]
        print_json({"folder": str(cache_root()), "size": total, "entries": listed})
        return
    rows = [(entry.kind, size(entry.size), _ago(entry.used), entry.name) for entry in found]
    if found:
        print_table(("kind", "size", "last used", "what"), rows, left=("kind", "last used", "what"))
    say(f"{cache_root()}: {len(found)} entries, {size(total)}")


def prune(
    max_age: Annotated[
        float | None, option(metavar="DAYS", help="Remove what was not used for so long.")
    ] = None,
    max_size: Annotated[
        str | None,
        option(metavar="SIZE", help="Then remove the oldest until so much is left: 2GB."),
    ] = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Remove what was not used for long, or the oldest down to a size."""
    limit = None if max_size is None else parse_size(max_size)
    if limit is None and max_age is None:
        raise ParameterError("say what to remove", hint="--max-age DAYS, --max-size SIZE or both")
    _ask("Remove what is old from", yes)
    days = None if max_age is None else max_age * 86400
    _tell(store.prune(max_age=days, max_bytes=limit), json)


def clear(yes: YesOption = False, json: JsonOption = False) -> None:
    """Remove everything in the cache; all of it can be made or fetched again."""
    _ask("Remove everything in", yes)
    _tell(store.clear(), json)


COMMANDS = {"list": show, "prune": prune, "clear": clear}


def parse_size(text: str) -> int:
    """Bytes from "500MB", "1.5 GB", "1000000"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise ParameterError(f"a size is such as 500MB or 2GB, not {text!r}")
    return int(float(found[1]) * UNITS[found[2]])


def _ask(what: str, yes: bool) -> None:
    if not yes and not ask(f"{what} {cache_root()}?"):
        raise SystemExit(1)


def _tell(removed: Sequence[Entry], json: bool) -> None:
    total = sum(entry.size for entry in removed)
    if json:
        print_json({"removed": [entry.to_dict() for entry in removed], "size": total})
    else:
        say(f"removed {len(removed)} entries, {size(total)}")


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for name, length in PERIODS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
