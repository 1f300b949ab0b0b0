"""What inks look like, in light and in dark, and the maps from a number to a colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

Colour = tuple[int, int, int]

LIGHT = {
    "back": "#ffffff", "text": "#1d1d1b", "soft": "#63635e", "grid": "#e6e6e2",
    "axis": "#a9a9a3", "empty": "#f3f3f0", "bad": "#c8352a",
    "s0": "#2563ac", "s1": "#b8660f", "s2": "#1c8465", "s3": "#8a55a8", "s4": "#b23a5e",
    "s5": "#4c7a1d",
}  # fmt: skip
DARK = {
    "back": "#1b1b1d", "text": "#ececea", "soft": "#a5a5a0", "grid": "#333336",
    "axis": "#6a6a66", "empty": "#262629", "bad": "#f0685c",
    "s0": "#6fa8e8", "s1": "#e5a150", "s2": "#58c29d", "s3": "#c195dd", "s4": "#ea8aa6",
    "s5": "#9ccb62",
}  # fmt: skip
SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")

NOT_FINITE: Colour = (220, 40, 40)
# From little to much, of about even steps of lightness; and for lines, as dark on white as light
# on black, so that the first and the last can be seen on either.
_AMOUNT: tuple[Colour, ...] = ((33, 27, 84), (46, 90, 150), (42, 150, 140), (130, 200, 90), (250, 230, 60))  # fmt: skip # noqa: E501
_ORDER: tuple[Colour, ...] = ((56, 122, 214), (140, 105, 205), (205, 85, 140), (222, 120, 45))
_OPPOSED: tuple[Colour, ...] = ((178, 24, 43), (244, 165, 130), (240, 240, 238), (146, 197, 222), (33, 102, 172))  # fmt: skip # noqa: E501


def amount(share: float) -> Colour:
    """From dark blue (0) to yellow (1); red for what is not finite."""
    return _between(_AMOUNT, share)


def order(share: float) -> Colour:
    """From blue (0) over purple to orange (1): one of several lines in their order."""
    return _between(_ORDER, share)


def opposed(value: float) -> Colour:
    """From red (-1) over white (0) to blue (1)."""
    return _between(_OPPOSED, (value + 1) / 2)


def as_hex(colour: Colour) -> str:
    """The colour as an ink."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def on(colour: Colour) -> str:
    """The ink of text upon a colour: black or white, whichever has the larger contrast (WCAG)."""
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if light < 0.179 else "#1d1d1b"


def _between(stops: Sequence[Colour], share: float) -> Colour:
    if not math.isfinite(share):
        return NOT_FINITE
    at = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(at), len(stops) - 2)
    part = at - index
    pairs = zip(stops[index], stops[index + 1], strict=True)
    red, green, blue = (round(a + (b - a) * part) for a, b in pairs)
    return (red, green, blue)


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """A colour between two: the first at 0, the second at 1."""
    return _between((first, second), share)
