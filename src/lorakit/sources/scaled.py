"""A reference with a scale behind it, "home:0.5" or "home:=2.0", and a name before: "lights=home".

A relative scale multiplies the adapter's own, which is alpha / r. An absolute one replaces it:
every delta then acts at that scale, whatever the file says. A name is letters, digits, dots and
dashes, so that no path with a folder and no URL begins with one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.errors import ParameterError

_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A reference and what was said behind it; at most one of the scales is there."""

    path: str
    name: str = ""  # what it is to be called
    scale: float | None = None
    absolute: float | None = None


def scaled(reference: str) -> Scaled:
    """What a reference says: a scale is what follows the last colon, if it is a number.

    A path that is there is one, whatever it ends in or begins with. Raises ParameterError for what
    is no scale.
    """
    name, sign, rest = reference.partition("=")
    whole = _scaled(reference)
    named = sign and rest and _NAME.fullmatch(name) and not _there(whole.path)
    return replace(_scaled(rest), name=name) if named else whole


def _scaled(reference: str) -> Scaled:
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
