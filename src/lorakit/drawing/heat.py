"""A heat map: rows with names, columns with numbers, a cell for each pair that is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorakit.drawing.axes import SIZE
from lorakit.drawing.measure import squeezed, text_width
from lorakit.drawing.shapes import Path, Rect, Shape, Words
from lorakit.drawing.theme import NOT_FINITE, Colour, as_hex

LARGEST, LEAST = 34.0, 6.0  # side of a cell across; up it is at most HIGH
HIGH = 24.0
MOST_LABEL = 220.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; hint is what a browser shows under the pointer. None as colour: not finite."""

    colour: Colour | None
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """cells: by (row, column); what is missing is drawn as empty."""

    rows: Sequence[str]
    columns: int
    cells: Mapping[tuple[str, int], Cell]
    column_name: str = "layer"

    def label(self) -> float:
        """Pixels that the names of the rows take."""
        longest = max(text_width(row, 12) for row in (*self.rows, self.column_name))
        return min(longest, MOST_LABEL) + 14

    def across(self, room: float) -> float:
        """The side of a cell in so much room; never so small that it is not seen."""
        return max(LEAST, min(LARGEST, (room - self.label()) / self.columns))

    def draw(self, left: float, top: float, room: float) -> tuple[list[Shape], float, float]:
        """Its shapes, and where it ends: the right side and the bottom, its numbers included."""
        across, begin = self.across(room), left + self.label()
        gap = 2.0 if across > 12 else 1.0
        shapes: list[Shape] = []
        for number, row in enumerate(self.rows):
            y = top + number * HIGH
            name = squeezed(row, 12, MOST_LABEL)
            shapes.append(Words(begin - 12, y + HIGH / 2 + 4, name, "text", 12, "end"))
            for column in range(self.columns):
                x, cell = begin + column * across, self.cells.get((row, column))
                shapes += _cell(cell, x, y, across - gap, HIGH - gap)
        bottom = top + len(self.rows) * HIGH
        shapes += self._numbers(begin, across, gap, bottom)
        return shapes, begin + self.columns * across, bottom + 20

    def _numbers(self, begin: float, across: float, gap: float, bottom: float) -> list[Shape]:
        widest = text_width(str(self.columns - 1), SIZE) + 8
        every = _round(max(1, math.ceil(widest / across)))
        middle = (across - gap) / 2
        numbers: list[Shape] = [
            Words(begin + n * across + middle, bottom + 14, str(n), "soft", SIZE, "middle")
            for n in range(0, self.columns, every)
        ]
        return [Words(begin - 12, bottom + 14, self.column_name, "soft", SIZE, "end"), *numbers]


def _cell(cell: Cell | None, x: float, y: float, width: float, height: float) -> list[Shape]:
    if cell is None:
        return [Rect(x, y, width, height, "empty", corner=1.5)]
    colour = cell.colour or NOT_FINITE
    drawn: list[Shape] = [Rect(x, y, width, height, as_hex(colour), cell.hint, corner=1.5)]
    if cell.colour is None:  # a cross, so that it is seen without colours too
        ends = ((x + 2, y + 2), (x + width - 2, y + height - 2))
        other = ((x + 2, y + height - 2), (x + width - 2, y + 2))
        drawn += [Path(ends, "#ffffff", 1.5), Path(other, "#ffffff", 1.5)]
    return drawn


def _round(every: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ..."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power >= every:
                return step * power
        power *= 10
