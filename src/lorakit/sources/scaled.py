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
    """What a reference with a scale says. Raises ParameterError for what is no scale."""
    path, sign, tail = reference.rpartition(":=")
    if not sign or not path or "/" in tail:
        plain, said = split_scale(reference)
        return Scaled(path=plain, scale=said)
    try:
        return Scaled(path=path, absolute=float(tail))
    except ValueError:
        raise ParameterError(
            f"{tail!r} in {reference} is no scale", hint=f"a number: {path}:=2.0"
        ) from None


def split_reference(reference: str) -> tuple[str, float]:
    """("home", 0.5) from "home:0.5", and ("home", 1.0) from "home"."""
    path, scale = split_scale(reference)
    return path, 1.0 if scale is None else scale


def split_scale(reference: str) -> tuple[str, float | None]:
    """("home", 0.5) from "home:0.5": a scale is what follows the last colon if it is a number;
    None where none is said. A path that is there is one, whatever it ends in.

    Raises ParameterError for an absolute scale, which `scaled` reads.
    """
    path, colon, tail = reference.rpartition(":")
    _, slashes, address = path.partition("://")
    host_only = slashes and "/" not in address  # what follows is a port
    if not colon or not path or host_only or _there(reference):
        return reference, None
    if tail.startswith("=") and "/" not in tail:
        raise ParameterError(
            f"{reference}: an absolute scale cannot be said here", hint=f"a relative one: {path}:1"
        )
    try:
        return path, float(tail)
    except ValueError:
        if _there(path):
            raise ParameterError(
                f"{tail!r} in {reference} is no scale", hint=f"a number: {path}:0.5"
            ) from None
        return reference, None


def _there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # longer than a path can be, no path at all
        return False
