"""Where a chat's lines come from: an editor at a terminal, or standard input as it is.

A message may have several lines: pasted at a terminal, or between two lines that are \"\"\".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Protocol

from lorakit.cli.output import read_line, say

PROMPT = "> "
FENCE = '"""'
# What may follow what was typed: (characters before the cursor that it replaces, the words).
Complete = Callable[[str], Iterable[tuple[int, str]]]


class Lines(Protocol):
    """Reads what is typed."""

    def read(self, prefilled: str = "") -> str:
        """The next line, or lines. Raises EOFError, and KeyboardInterrupt where nothing is typed.

        prefilled: what may be changed, where there is an editor.
        """
        ...


class PlainLines:
    """Standard input, line by line."""

    def read(self, prefilled: str = "") -> str:
        try:
            return read_line(PROMPT)
        except (EOFError, KeyboardInterrupt):
            if sys.stdin.isatty():
                say()
            raise


def read_message(lines: Lines, prefilled: str = "") -> str:
    """A message or command: the next line, or all between two \"\"\"."""
    said = lines.read(prefilled).strip()
    if not said.startswith(FENCE):
        return said
    parts = [said.removeprefix(FENCE)]
    while not parts[-1].rstrip().endswith(FENCE):
        try:
            parts.append(lines.read())
        except EOFError:
            break
    parts[-1] = parts[-1].rstrip().removesuffix(FENCE)
    return "\n".join(parts).strip("\n")
