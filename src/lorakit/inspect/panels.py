"""Singular values as small charts, one for each kind of module, a line for each layer.

All have the same axes, so that kinds can be compared; a bar says which colour is which layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.drawing.axes import SIZE, Frame, ticks
from lorakit.drawing.charts import BAR_HEIGHT, colour_bar
from lorakit.drawing.measure import squeezed
from lorakit.drawing.shapes import Anchor, Path, Point, Shape, Words
from lorakit.drawing.theme import as_hex, order
from lorakit.inspect.grid import places_of
from lorakit.inspect.report import ModuleReport

MOST = 24  # panels
POINTS = 64  # of a line
ACROSS = 4
GAP, HEIGHT, TITLE = 22.0, 92.0, 22.0
DECADES = 6  # below the largest that are shown


@dataclass(frozen=True, slots=True)
class Curve:
    """Singular values of one matrix, or the mean of those of its experts. layer: None outside."""

    layer: int | None
    values: tuple[float, ...]


def curves(modules: Sequence[ModuleReport]) -> dict[str, list[Curve]]:
    """By kind; what is zero or not finite ends a curve, and a matrix of nothing has none."""
    places = places_of([m.module for m in modules])
    found: dict[str, list[Curve]] = {}
    for m in modules:
        kind, layer = places.get(m.module, (m.module, None))
        of_experts = [each.values for each in m.spectra or () if each.values]
        if not of_experts:
            continue
        length = min(map(len, of_experts))
        mean = np.mean([values[:length] for values in of_experts], axis=0)
        kept = [float(v) for v in mean if math.isfinite(v) and v > 0]
        if kept:
            found.setdefault(kind, []).append(Curve(layer, tuple(kept)))
    return found


def draw(
    found: Mapping[str, Sequence[Curve]], left: float, top: float, room: float
) -> tuple[list[Shape], float]:
    """The panels and what explains them; and where they end."""
    kinds = list(found)[:MOST]
    drawn = [curve for kind in kinds for curve in found[kind]]
    high = math.log10(max(max(curve.values) for curve in drawn))
    low = max(math.log10(min(min(curve.values) for curve in drawn)), high - DECADES)
    low, high = (low, high) if high - low > 0.3 else (high - 0.3, high)
    longest = max(2, *(len(curve.values) for curve in drawn))
    layers = 1 + max((curve.layer for curve in drawn if curve.layer is not None), default=-1)
    marks = _marks(low, high)
    margin = 40.0
    width = (room - margin - GAP * (ACROSS - 1)) / ACROSS
    shapes: list[Shape] = []
    for number, kind in enumerate(kinds):
        row, column = divmod(number, ACROSS)
        frame = Frame(
            left=left + margin + column * (width + GAP), width=width, height=HEIGHT,
            top=top + TITLE + row * (HEIGHT + TITLE + GAP),
            first=1, last=longest, low=low, high=high,
        )  # fmt: skip
        below = number + ACROSS >= len(kinds)
        shapes += _panel(kind, found[kind], frame, marks, layers, column == 0, below)
    rows = math.ceil(len(kinds) / ACROSS)
    bottom = top + rows * (HEIGHT + TITLE + GAP) + 8
    if layers > 1:
        ends = [(0.0, "0"), (1.0, str(layers - 1))]
        shapes += colour_bar(left + margin, bottom, order, ends, "layer")
        bottom += BAR_HEIGHT
    if len(found) > len(kinds):
        said = f"{len(kinds)} of {len(found)} kinds of modules"
        shapes.append(Words(left, bottom, said, "soft", SIZE))
        bottom += 16
    return shapes, bottom


def _panel(
    kind: str,
    lines: Sequence[Curve],
    frame: Frame,
    marks: Sequence[float],
    layers: int,
    first: bool,
    last: bool,
) -> list[Shape]:
    title = squeezed(kind, 12, frame.width)
    shapes: list[Shape] = [Words(frame.left, frame.top - 8, title, "text", 12)]
    for mark in marks:
        y = frame.y(math.log10(mark))
        shapes.append(Path(((frame.left, y), (frame.right, y)), "grid"))
        if first:
            shapes.append(Words(frame.left - 6, y + 4, f"{mark:g}", "soft", SIZE, "end"))
    base = ((frame.left, frame.bottom), (frame.right, frame.bottom))
    shapes.append(Path(base, "axis"))
    if last:
        for number in (1, int(frame.last)):
            anchor: Anchor = "start" if number == 1 else "end"
            x = frame.x(number)
            shapes.append(Words(x, frame.bottom + 14, str(number), "soft", SIZE, anchor))
    for line in lines:
        share = (line.layer or 0) / max(layers - 1, 1)
        ink = "text" if line.layer is None else as_hex(order(share))
        shapes.append(Path(frame.line(_points(line, frame)), ink, 1.4, opacity=0.85))
    return shapes


def _points(line: Curve, frame: Frame) -> list[Point]:
    """At most POINTS of them, the first and the last among them; a single one becomes a dash."""
    count = len(line.values)
    places = np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))
    points = [(n + 1.0, math.log10(line.values[n])) for n in places]
    if len(points) == 1:
        points.append((1 + 0.06 * (frame.last - frame.first), points[0][1]))
    return points


def _marks(low: float, high: float) -> list[float]:
    """Powers of ten, or round numbers where there are fewer than two of those."""
    powers = [10.0**n for n in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    return powers if len(powers) > 1 else [v for v in ticks(10**low, 10**high, 4) if v > 0]
