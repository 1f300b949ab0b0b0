"""What is looked at before `resize` and before `combine`, as drawings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorakit.drawing import Drawing
from lorakit.drawing.charts import (
    BAR_HEIGHT,
    MARGIN,
    WIDTH,
    Axis,
    Line,
    background,
    colour_bar,
    heading,
    line_chart,
)
from lorakit.drawing.heat import Cell, Heat
from lorakit.drawing.shapes import Shape, Words
from lorakit.drawing.theme import Colour, amount, opposed
from lorakit.inspect.grid import places_of
from lorakit.inspect.overlap import ModuleOverlap, Overlap
from lorakit.inspect.ranks import RankCurve

ENERGIES = (0.9, 0.99)  # that are named: what `resize --energy` is most often given


def plot_ranks(curve: RankCurve, *, title: str = "") -> Drawing:
    """The relative residual at each rank, of the whole and of the module that fits worst."""
    points = curve.points
    lines = [
        Line(
            name="all modules",
            points=tuple((p.rank, p.residual) for p in points),
            hints=tuple(f"rank {p.rank}: {p.residual:.3g}" for p in points),
            dotted=len(points) <= 32,
        ),
        Line(
            name="the module that fits worst",
            points=tuple((p.rank, p.worst_residual) for p in points),
            hints=tuple(f"rank {p.rank}: {p.worst_residual:.3g}, {p.worst}" for p in points),
            dotted=False,
            dashed=True,
        ),
    ]
    kept = [
        f"{energy:.0%} of the squares at rank {curve.least(energy).rank}" for energy in ENERGIES
    ]
    every = max(1, round(len(points) / 8))
    marks = tuple(float(n) for n in range(1, len(points) + 1) if n == 1 or n % every == 0)
    return line_chart(
        lines,
        Axis(label="rank", marks=marks),
        Axis(label="relative residual ‖cut - whole‖ / ‖whole‖", low=0.0, written="{:.2g}".format),
        title=title or "What each rank keeps",
        about=", ".join(kept),
    )


def plot_overlap(found: Overlap, *, title: str = "") -> Drawing:
    """Three heat maps by layer: the cosine of the changes, what they read, where they write."""
    name = title or "Overlap of two adapters"
    about = f"cosine {found.cosine:.3g} · {len(found.modules)} shared modules"
    shapes, top = heading(name, about, WIDTH)
    right = WIDTH - MARGIN
    maps: tuple[tuple[str, str, Callable[[float], Colour], Sequence[tuple[float, str]]], ...] = (
        ("cosine", "Cosine of the changes", _opposed, ((0, "-1"), (0.5, "0"), (1, "1"))),
        ("inputs", "What they read: overlap of the inputs' spaces", amount, _UNIT),
        ("outputs", "Where they write: overlap of the outputs' spaces", amount, _UNIT),
    )
    for field, heading_, colour, marks in maps:
        chance = getattr(found, f"chance_{field}", None)
        label = "" if chance is None else f"{chance:.2g} by chance"
        drawn, end, top = _map(found.modules, field, heading_, colour, marks, label, top + 10)
        right = max(right, end)
        shapes += drawn
    width, height = max(WIDTH, right + MARGIN), top + MARGIN * 0.5
    everything = (background(width, height), *shapes)
    return Drawing(width=width, height=height, title=name, said=about, shapes=everything)


_UNIT = ((0, "0"), (0.5, "0.5"), (1, "1"))


def _opposed(share: float) -> Colour:
    return opposed(2 * share - 1)


def _map(
    modules: Sequence[ModuleOverlap],
    field: str,
    title: str,
    colour: Callable[[float], Colour],
    marks: Sequence[tuple[float, str]],
    label: str,
    top: float,
) -> tuple[list[Shape], float, float]:
    """One heat map with its bar; modules outside of layers are rows of one cell."""
    places = places_of([m.module for m in modules])
    cells = {}
    for m in modules:
        value = getattr(m, field)
        share = (value + 1) / 2 if field == "cosine" else value
        place = places.get(m.module, (m.module, 0))
        cells[place] = Cell(colour(share), f"{m.module}: {value:.3g}")
    rows = tuple(dict.fromkeys(kind for kind, _ in cells))
    heat = Heat(rows=rows, columns=1 + max(layer for _, layer in cells), cells=cells)
    shapes: list[Shape] = [Words(MARGIN, top + 8, title, "text", 13, bold=True)]
    drawn, right, bottom = heat.draw(MARGIN, top + 22, WIDTH - 2 * MARGIN)
    shapes += drawn
    shapes += colour_bar(MARGIN + heat.label(), bottom + 8, colour, marks, label)
    return shapes, right, bottom + 8 + BAR_HEIGHT + 8
