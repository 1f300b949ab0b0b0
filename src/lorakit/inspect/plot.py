"""A report as a picture: what each module's change amounts to, and its singular values.

It turns a Report with values into a Drawing; it reads no adapter.
"""

from __future__ import annotations

from collections.abc import Callable

from lorakit.drawing import Drawing
from lorakit.drawing.axes import SIZE
from lorakit.drawing.charts import (
    BAR_HEIGHT,
    MARGIN,
    WIDTH,
    background,
    colour_bar,
    folded,
    heading,
)
from lorakit.drawing.heat import Cell, Heat
from lorakit.drawing.shapes import Shape, Words
from lorakit.drawing.theme import amount
from lorakit.errors import ParameterError
from lorakit.inspect.grid import Grid, grid, norms
from lorakit.inspect.panels import curves, draw
from lorakit.inspect.report import ModuleReport, Report

OUTSIDE = 6  # modules outside of layers that are named


def plot(report: Report, *, title: str = "") -> Drawing:
    """The heat map of the changes by layer, and the singular values of each kind of module.

    Changes are relative to the base's weights where the report knows them, else the norms of
    scale * B @ A. Raises ParameterError where the report has no values or nothing to draw.
    """
    heat, lines = grid(report.modules, number_of(report)), curves(report.modules)
    if heat is None and not lines:
        raise ParameterError(
            "there is nothing to draw: no norms or singular values of deltas",
            hint="inspect with spectrum=True, an adapter that holds deltas",
        )
    shapes, top = heading(title or "adapter", about(report), WIDTH)
    right = WIDTH - MARGIN
    if heat is not None:
        drawn, right, top = _heat(heat, top + 12, unit_of(report), written_of(report))
        shapes += drawn
    if lines:
        shapes.append(
            Words(MARGIN, top + 18, "Singular values of scale · B A", "text", 13, bold=True)
        )
        shapes.append(Words(MARGIN, top + 34, "by their number, largest first", "soft", SIZE))
        drawn, top = draw(lines, MARGIN, top + 44, WIDTH - 2 * MARGIN)
        shapes += drawn
    width, height = max(WIDTH, right + MARGIN), top + MARGIN * 0.5
    everything = (background(width, height), *shapes)
    return Drawing(
        width=width, height=height, title=title or "adapter", said=about(report), shapes=everything
    )


def number_of(report: Report) -> Callable[[ModuleReport], float | None]:
    """What of a module is shown: its strength relative to the base's weight where that is known,
    else the norm of its change."""
    if report.relative_norm is not None:
        return lambda module: module.relative_norm
    return norms


def unit_of(report: Report) -> str:
    """What that number is."""
    relative = report.relative_norm is not None
    return "‖scale · B A‖ / ‖W‖" if relative else "‖scale · B A‖, Frobenius norm"


def written_of(report: Report) -> Callable[[float], str]:
    """How it is written: 4.2% of the weights, or 11.6."""
    if report.relative_norm is not None:
        return lambda number: f"{number * 100:.3g}%"
    return "{:.3g}".format


def about(report: Report) -> str:
    """What an adapter is, in a line."""
    ranks = ", ".join(f"{rank}" for rank in report.ranks)
    said = [f"rank {ranks}" if ranks else "", f"{len(report.modules)} modules"]
    said.append("" if report.norm is None else f"norm {report.norm:.3g}")
    if report.relative_norm is not None:
        said.append(f"{report.relative_norm * 100:.3g}% of the weights that it changes")
    return " · ".join(filter(None, said))


def _heat(
    found: Grid, top: float, unit: str, written: Callable[[float], str]
) -> tuple[list[Shape], float, float]:
    """The map, what its colours mean, and the modules that are in no layer."""
    shapes: list[Shape] = [Words(MARGIN, top + 8, "Change by layer", "text", 13, bold=True)]
    cells = {
        (kind, layer): Cell(
            amount(share) if share == share else None, f"layer {layer} {kind}: {written(value)}"
        )
        for (kind, layer), (value, share) in found.cells.items()
    }
    heat = Heat(rows=found.kinds, columns=found.layers, cells=cells)
    drawn, right, bottom = heat.draw(MARGIN, top + 22, WIDTH - 2 * MARGIN)
    shapes += drawn
    unit += ", logarithmic" * found.logarithmic
    begin, bottom = MARGIN + heat.label(), bottom + 10
    if found.high > found.low:
        marks = [(share, f"{written(found.value(share))}") for share in (0.0, 0.5, 1.0)]
        shapes += colour_bar(begin, bottom, amount, marks, unit)
        bottom += BAR_HEIGHT
    else:
        shapes.append(Words(begin, bottom + 9, f"{unit}: {written(found.high)}", "soft", SIZE))
        bottom += 16
    if found.outside:
        bottom += 8
        named = [f"{name} {written(value)}" for name, value in found.outside.items()]
        more = len(named) - OUTSIDE
        text = "outside of layers: " + ", ".join(named[:OUTSIDE]) + f" and {more} more" * (more > 0)
        for line in folded(text, SIZE, WIDTH - 2 * MARGIN):
            shapes.append(Words(MARGIN, bottom + 8, line, "soft", SIZE))
            bottom += 16
    return shapes, right, bottom + 8
