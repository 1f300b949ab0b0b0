"""An adapter's strength as a heat map in the terminal: a row for each kind of module, a column for
each layer.

Colour where the terminal has it, else characters that grow darker; layers that do not fit beside
each other go into further blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from lorakit.cli.output import plain
from lorakit.drawing.theme import amount
from lorakit.inspect.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

SHADES = ".:-=+*#%@"  # least to largest
NOT_FINITE = "!"
_CELL = 2  # columns of one layer


def show(grid: Grid, console: Console, unit: str, written: Callable[[float], str]) -> None:
    """Print the map, and under it what the colours or characters mean.

    unit: what the numbers are; written: how each is.
    """
    label = max(len(plain(kind)) for kind in grid.kinds) + 2
    width = max(1, (console.width - label) // _CELL)
    coloured = console.color_system is not None and not console.no_color
    for first in range(0, grid.layers, width):
        layers = range(first, min(first + width, grid.layers))
        console.print(Text(("layer".ljust(label) + _ruler(layers)).rstrip(), no_wrap=True))
        for kind in grid.kinds:
            console.print(_row(grid, kind, layers, label, coloured))
    console.print(_legend(grid, coloured, written))
    console.print(Text(unit + ", logarithmic" * grid.logarithmic, style="dim"))


def _ruler(layers: range) -> str:
    """The number of every fifth layer above its column."""
    marks = [str(n).ljust(_CELL * min(5, layers.stop - n)) for n in layers if n % 5 == 0]
    begin = next((n for n in layers if n % 5 == 0), layers.stop) - layers.start
    return " " * (_CELL * begin) + "".join(marks)


def _row(grid: Grid, kind: str, layers: range, label: int, coloured: bool) -> Text:
    row = Text(plain(kind).ljust(label), no_wrap=True)
    for layer in layers:
        held = grid.cells.get((kind, layer))
        if held is None:
            row.append(" " * _CELL)
        else:
            row.append(*_cell(held[1], coloured))
    return row


def _cell(share: float, coloured: bool) -> tuple[str, Style | None]:
    if coloured:
        red, green, blue = amount(share)
        text = NOT_FINITE * _CELL if math.isnan(share) else " " * _CELL
        return text, Style(bgcolor=f"rgb({red},{green},{blue})")
    if math.isnan(share):
        return NOT_FINITE * _CELL, None
    return SHADES[min(int(share * len(SHADES)), len(SHADES) - 1)] * _CELL, None


def _legend(grid: Grid, coloured: bool, written: Callable[[float], str]) -> Text:
    legend = Text(f"{written(grid.low)} ", no_wrap=True)
    for step in range(len(SHADES)):
        text, style = _cell(step / (len(SHADES) - 1), coloured)
        legend.append(text[:1], style)
    legend.append(f" {written(grid.high)}")
    if any(math.isnan(share) for _, share in grid.cells.values()):
        legend.append(f", {NOT_FINITE} not finite")
    return legend
