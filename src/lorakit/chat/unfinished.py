"""What may still become a marker, once more text comes: for readers of text that grows.

A sequence is a tuple of literal characters and of patterns of white space, such as
("<", r"\\s{0,8}", "a", ">").
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPACES = r"\s"


def sequence(*parts: str) -> tuple[str, ...]:
    """Literal texts, and patterns of white space (which begin with a backslash), as a sequence."""
    return tuple(
        atom
        for part in parts
        for atom in ([part] if part.startswith(_SPACES) else map(re.escape, part))
    )


def unfinished(sequences: Iterable[tuple[str, ...]]) -> str:
    """The pattern of their beginnings that are not the whole yet, of one character at least."""
    return "|".join(map(_beginning, sequences))


def held(text: str, markers: Iterable[str]) -> int:
    """How many characters at the end of a text may be the beginning of a marker."""
    longest = 0
    for marker in markers:
        for size in range(min(len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:size]):
                longest = size
                break
    return longest


def _beginning(atoms: tuple[str, ...]) -> str:
    pattern = ""
    for atom in reversed(atoms[:-1]):
        pattern = f"{atom}(?:{pattern})?" if pattern else atom
    return pattern
