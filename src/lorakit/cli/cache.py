"""lorakit cache: what is in the cache, and removing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

from lorakit.cli.output import ask, print_json, print_table, say, say_folded, size
from lorakit.cli.references import JsonOption
from lorakit.cli.signature import argument, option
from lorakit.errors import ParameterError
from lorakit.files.cache import LIMIT, NO_LIMIT, cache_limit, cache_root, set_cache_limit
from lorakit.sources import prune as store
from lorakit.sources.prune import Entry
from lorakit.values import byte_count

YesOption = Annotated[bool, option("--yes", "-y", help="Do not ask.")]
PERIODS = (("day", 86400), ("hour", 3600), ("minute", 60))

ABOUT = "Show, limit and empty the cache."


def show(json: JsonOption = False) -> None:
    """List what is in the cache: kind, size, last use, what it is of."""
    found = store.entries()
    total = sum(entry.size for entry in found)
    limit = cache_limit()
    if json:
        listed = [entry.to_dict() for entry in found]
        said = {"folder": str(cache_root()), "size": total, "limit": limit, "entries": listed}
        print_json(said)
        return
    rows = [(entry.kind, size(entry.size), _used(entry), entry.name) for entry in found]
    if found:
        print_table(("kind", "size", "last used", "what"), rows, left=("kind", "last used", "what"))
    say_folded(f"{cache_root()}: {len(found)} entries, {size(total)}")
    say_folded(_limit(limit))


def prune(
    max_age: Annotated[
        float | None, option(metavar="DAYS", help="Remove what was not used for so long.")
    ] = None,
    max_size: Annotated[
        str | None,
        option(
            "--max-size",
            "--to",
            metavar="SIZE",
            help="Then remove the oldest until so much is left: 2GB.",
        ),
    ] = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Remove what was not used for long, or the oldest down to a size; not what is in use."""
    limit = None if max_size is None else byte_count(max_size)
    if limit is None and max_age is None:
        raise ParameterError("say what to remove", hint="--max-age DAYS, --max-size SIZE or both")
    _ask("Remove what is old from", yes)
    days = None if max_age is None else max_age * 86400
    _tell(store.prune(max_age=days, max_bytes=limit), json)


def clear(yes: YesOption = False, json: JsonOption = False) -> None:
    """Remove everything in the cache; all of it can be made or fetched again."""
    _ask("Remove everything in", yes)
    _tell(store.clear(), json)


def limit(
    most: Annotated[
        str | None, argument(metavar="SIZE", help="20GB, or none; left out, it is said.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say or set the size that the cache is kept to: the oldest that nobody uses goes first.

    It is done where a model is opened, or something is fetched. LORAKIT_CACHE_LIMIT goes first.
    """
    if most is not None:
        set_cache_limit(None if most.lower() in NO_LIMIT else byte_count(most))
    found = cache_limit()
    if json:
        print_json({"limit": found})
    else:
        say_folded(_limit(found))


COMMANDS = {"list": show, "prune": prune, "limit": limit, "clear": clear}


def _limit(limit: int | None) -> str:
    if limit is None:
        return f"limit: none; nothing is removed by itself (lorakit cache limit 20GB, or {LIMIT})"
    return f"limit: {size(limit)}; the oldest that is not in use goes first"


def _ask(what: str, yes: bool) -> None:
    if not yes and not ask(f"{what} {cache_root()}?"):
        raise SystemExit(1)


def _tell(removed: Sequence[Entry], json: bool) -> None:
    total = sum(entry.size for entry in removed)
    if json:
        print_json({"removed": [entry.to_dict() for entry in removed], "size": total})
    else:
        say(f"removed {len(removed)} entries, {size(total)}")


def _used(entry: Entry) -> str:
    return "in use" if entry.held else _ago(entry.used)


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for name, length in PERIODS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
