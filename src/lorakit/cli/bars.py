"""Shares as bars of characters, legible without colour: filled blocks before a dotted track."""

from __future__ import annotations

import math

from lorakit.cli.output import Styled

BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths of a column
TRACK = "·"


def bar(share: float, width: int, style: str) -> list[Styled]:
    """So much of a width, to an eighth of a column; of what is not finite the track alone."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8) if math.isfinite(share) else 0
    full, part = divmod(eighths, 8)
    filled = "█" * full + BLOCKS[part] * bool(part)
    return [(filled, style), (TRACK * (width - len(filled)), "dim")]
