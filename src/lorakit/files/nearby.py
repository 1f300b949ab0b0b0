"""What a path that is not there may be meant for: a neighbour, one within, a repository."""

from __future__ import annotations

import os
from pathlib import Path

from lorakit.values import close_to

SHOWN = 8
LOOKED_AT = 1000  # names in a folder


def or_nearby(path: Path) -> str:
    """The end of a hint for a path that is not there; or nothing."""
    named = len(path.parts) == 2 and not path.is_absolute() and path.parts[0] not in ("..", "~")
    hub = f"; for the Hub: hf:{path.as_posix()}" if named and not path.parent.exists() else ""
    return hub + _neighbours(path)


def or_within(path: Path) -> str:
    """The end of a hint for a file that a folder lacks and folders in it have; or nothing."""
    try:
        listed = [each for each, _ in zip(path.parent.iterdir(), range(LOOKED_AT), strict=False)]
        found = sorted(each for each in listed if (each / path.name).is_file())
    except OSError:
        return ""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"; in it: {', '.join(map(str, found[:SHOWN]))}{more}" if found else ""


def _neighbours(path: Path) -> str:
    """What is called nearly so where the path stops being one; else what is there."""
    if os.path.lexists(path):  # it is something else than was looked for
        return ""
    try:
        place = next((folder for folder in path.parents if folder.is_dir()), None)
        if place is None:
            return ""
        wanted, *rest = path.relative_to(place).parts
        listed = [each for each, _ in zip(place.iterdir(), range(LOOKED_AT), strict=False)]
        names = sorted(each.name for each in listed if not each.name.startswith("."))
        close = [place / name for name in close_to(wanted, names)]
        whole = [each.joinpath(*rest) for each in close if each.joinpath(*rest).exists()]
    except (OSError, ValueError):
        return ""
    if found := whole or close:
        return f"; did you mean {' or '.join(map(str, found))}?"
    if place != path.parent or place == Path() or not 0 < len(names) <= SHOWN:
        return ""
    return f"; beside it: {', '.join(names)}"
