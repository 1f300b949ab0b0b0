"""What a picture is made of. Units are pixels of the picture's own size, y goes down.

An ink is a role of theme.py ("text", "grid", "s0"), or a colour as "#rrggbb", the same in light
and dark. `hint` is what a browser shows under the pointer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Rect:
    """A filled rectangle. edge: the ink of a line around it."""

    x: float
    y: float
    width: float
    height: float
    ink: str
    hint: str = ""
    edge: str = ""
    opacity: float = 1.0
    corner: float = 0.0


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points; `filled` makes it a polygon without an edge."""

    points: tuple[Point, ...]
    ink: str
    width: float = 1.0
    filled: bool = False
    opacity: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    ink: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text; (x, y) is where its baseline begins, ends or has its middle."""

    x: float
    y: float
    text: str
    ink: str = "text"
    size: float = 12.0
    anchor: Anchor = "start"
    bold: bool = False
    mono: bool = False
    upwards: bool = False  # turned by a quarter, from the bottom to the top


Shape = Rect | Path | Dot | Words
