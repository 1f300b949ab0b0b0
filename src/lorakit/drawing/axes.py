"""Two axes: from values to places, round numbers to mark them with, and the lines of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lorakit.drawing.measure import text_width
from lorakit.drawing.shapes import Path, Point, Shape, Words

SIZE = 11.0  # of the text at marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A rectangle of the picture in which x goes from `first` to `last` and y from `low` to `high`.

    (left, top) and width, height are in pixels.
    """

    left: float
    top: float
    width: float
    height: float
    first: float
    last: float
    low: float
    high: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width

    def x(self, value: float) -> float:
        share = (value - self.first) / ((self.last - self.first) or 1.0)
        return self.left + share * self.width

    def y(self, value: float) -> float:
        """The place of a value; what lies outside is shown at the edge."""
        share = (self.high - value) / ((self.high - self.low) or 1.0)
        return self.top + min(max(share, 0.0), 1.0) * self.height

    def line(self, points: Iterable[Point]) -> tuple[Point, ...]:
        return tuple((self.x(x), self.y(y)) for x, y in points)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, at most `most`: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step + 0.0 for n in range(first, last + 1)]


def apart(marks: Sequence[float], frame: Frame, written: Callable[[float], str]) -> list[float]:
    """Those marks of the x axis whose texts do not touch; the first always."""
    kept: list[float] = []
    free = -math.inf
    for mark in marks:
        half = text_width(written(mark), SIZE) / 2
        if frame.x(mark) - half >= free:
            kept.append(mark)
            free = frame.x(mark) + half + 10
    return kept


def grid_lines(
    frame: Frame,
    *,
    across: Sequence[float] = (),
    up: Sequence[float] = (),
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = "{:g}".format,
) -> list[Shape]:
    """Lines at the marks `up` the y axis, and the texts of both axes. y_text may say ""."""
    shapes: list[Shape] = []
    for value in up:
        y = frame.y(value)
        shapes.append(Path(((frame.left, y), (frame.right, y)), "grid"))
        if said := y_text(value):
            shapes.append(Words(frame.left - 8, y + 4, said, "soft", SIZE, "end"))
    base = frame.bottom
    shapes.append(Path(((frame.left, base), (frame.right, base)), "axis"))
    for value in apart(across, frame, x_text):
        x = frame.x(value)
        shapes.append(Path(((x, base), (x, base + 4)), "axis"))
        shapes.append(Words(x, base + 17, x_text(value), "soft", SIZE, "middle"))
    return shapes
