"""A reference with a scale behind it: "home:0.5", or "home:=2.0".

A relative scale multiplies the adapter's own, which is alpha / r. An absolute one replaces it:
every delta then acts at that scale, whatever the file says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A reference and what was said behind it; at most one of the scales is there."""

    path: str
    scale: float | None = None
    absolute: float | None = None


def scaled(reference: str) -> Scaled:
    """What a reference with a scale says: one is what follows the last colon, if it is a number.

    A path that is there is one, whatever it ends in. Raises ParameterError for what is no scale.
    """
    path, colon, tail = reference.rpartition(":")
    _, slashes, address = path.partition("://")
    host_only = slashes and "/" not in address  # what follows is a port
    absolute = tail.startswith("=") and "/" not in tail
    if not colon or not path or host_only or _there(reference):
        return Scaled(path=reference)
    try:
        number = float(tail.removeprefix("=") if absolute else tail)
    except ValueError:
        if not absolute and not _there(path):
            return Scaled(path=reference)
        raise ParameterError(
            f"{tail!r} in {reference} is no scale", hint=f"a number: {path}:0.5, {path}:=2.0"
        ) from None
    return Scaled(path=path, absolute=number) if absolute else Scaled(path=path, scale=number)


def _there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # longer than a path can be, no path at all
        return False
