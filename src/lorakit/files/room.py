"""Whether a disk has room, asked before the long work."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorakit.errors import WriteError


def require_room(output: Path, size: int, what: str, *, about: str = "") -> None:
    """Raise WriteError where the disk that `output` will be on has fewer than `size` bytes free.

    what: that is written; about: "about " where the size is an estimate.
    """
    place = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise WriteError(
            f"{place} has no room for {what}",
            items=[f"{about}{size} bytes needed, {free} bytes free"],
            hint="free some space, or name an output on another disk",
        )
