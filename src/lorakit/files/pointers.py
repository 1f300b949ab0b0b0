"""Pointers of git-lfs: a few lines of text that git keeps in the place of a large file."""

from __future__ import annotations

from pathlib import Path

from lorakit.errors import FormatError

BEGINNING = b"version https://git-lfs"
MAX_POINTER = 1024  # bytes, by git-lfs's own specification


def refuse_pointer(head: bytes, path: Path) -> None:
    """Raise FormatError where a file begins as a pointer does: its content was not downloaded."""
    if head.startswith(BEGINNING):
        raise FormatError(
            f"{path} is the pointer of git-lfs to a file that was not downloaded",
            hint="fetch the files themselves: git lfs pull",
        )
