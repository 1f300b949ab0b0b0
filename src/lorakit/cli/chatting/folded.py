"""What a chat says beside the answers: at a terminal folded between words, elsewhere as it is."""

from __future__ import annotations

import sys
from shutil import get_terminal_size
from textwrap import wrap

from lorakit.cli.output import plain, say

LEAST = 20  # columns


def tell(text: str, style: str = "") -> None:
    """Say something in a line, or lines that begin where the first does."""
    if not sys.stdout.isatty():
        say((text, style))
        return
    text = plain(text)
    margin = " " * (len(text) - len(text.lstrip()))
    width = max(LEAST, get_terminal_size().columns - 1)
    lines = wrap(
        text, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        say((line, style))
