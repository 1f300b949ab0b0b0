"""A reference with a scale behind it: "home:0.5"."""

from __future__ import annotations

from pathlib import Path

from lorakit.errors import ParameterError


def split_reference(reference: str) -> tuple[str, float]:
    """("home", 0.5) from "home:0.5", and ("home", 1.0) from "home"."""
    path, scale = split_scale(reference)
    return path, 1.0 if scale is None else scale


def split_scale(reference: str) -> tuple[str, float | None]:
    """("home", 0.5) from "home:0.5": a scale is what follows the last colon if it is a number;
    None where none is said."""
    path, colon, tail = reference.rpartition(":")
    _, slashes, address = path.partition("://")
    host_only = slashes and "/" not in address  # what follows is a port
    try:
        return (path, float(tail)) if colon and path and not host_only else (reference, None)
    except ValueError:
        if colon and Path(path).exists() and not Path(reference).exists():
            raise ParameterError(
                f"{tail!r} in {reference} is no scale", hint=f"a number: {path}:0.5"
            ) from None
        return reference, None
