"""A report as a picture: the norms of the deltas by layer and kind, and their singular values.

It turns a Report with values into the bytes of a PNG file; it reads no adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorakit.errors import ParameterError
from lorakit.inspect.picture import BLACK, Colour, Picture, text_width
from lorakit.inspect.report import ModuleReport, Report

_LAYER = re.compile(r"^(?:.*\.)?(?:layers|h)\.(\d{1,9})\.(?:.*\.)?([^.]+)$")
_LOG = 20.0  # a larger span of norms is shown by its logarithm
_GREY: Colour = (225, 225, 225)
_STOPS: tuple[Colour, ...] = ((33, 27, 84), (46, 90, 150), (42, 150, 140), (130, 200, 90), (250, 230, 60))  # fmt: skip # noqa: E501
_KINDS: tuple[Colour, ...] = ((196, 54, 54), (44, 110, 190), (40, 140, 70), (220, 140, 20), (120, 70, 170), (20, 150, 160), (140, 90, 50), (200, 70, 150))  # fmt: skip # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Norms by kind of module and layer, with the place of each between the least and the largest.

    cells: (kind, layer) -> (norm, share); share is 0 to 1, or NaN where the norm is.
    """

    kinds: tuple[str, ...]
    layers: int
    low: float
    high: float
    logarithmic: bool
    cells: Mapping[tuple[str, int], tuple[float, float]]


def grid(modules: Sequence[ModuleReport]) -> Grid | None:
    """The norms of the modules that lie in layers; None where there are none, or none were read."""
    norms: dict[tuple[str, int], float] = {}
    for m in modules:
        if m.norm is not None and (place := place_of(m)):
            norms[place] = m.norm
    finite = [norm for norm in norms.values() if math.isfinite(norm)]
    if not norms:
        return None
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    above = [norm for norm in finite if norm > 0]
    logarithmic = bool(above) and high > _LOG * min(above)
    floor = min(above) if logarithmic else low

    def share(norm: float) -> float:
        if math.isnan(norm) or math.isinf(norm):
            return math.nan
        if not logarithmic:
            return (norm - low) / (high - low) if high > low else float(high > 0)
        return math.log(norm / floor) / math.log(high / floor) if norm > 0 else 0.0

    return Grid(
        kinds=tuple(dict.fromkeys(kind for kind, _ in norms)),
        layers=1 + max(layer for _, layer in norms),
        low=low,
        high=high,
        logarithmic=logarithmic,
        cells={place: (norm, share(norm)) for place, norm in norms.items()},
    )


def place_of(module: ModuleReport) -> tuple[str, int] | None:
    """("q_proj", 3) of "model.layers.3.self_attn.q_proj"; None outside of layers."""
    found = _LAYER.match(module.module)
    return (found[2], int(found[1])) if found else None


def colour_of(share: float) -> Colour:
    """From dark blue (0) to yellow (1); red for what is not finite."""
    if math.isnan(share):
        return (220, 40, 40)
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(at), len(_STOPS) - 2)
    first, second, part = _STOPS[index], _STOPS[index + 1], at - index
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return (red, green, blue)


# The picture.

_MARGIN = 24
_CELL = 26
_CHART = (640, 300)
_LINE = 24  # of text at the font's double size


def plot(report: Report, *, title: str = "") -> bytes:
    """A PNG file: the heat map of norms above, curves of singular values below.

    Raises ParameterError where the report has no values or nothing to draw.
    """
    heat = grid(report.modules)
    curves = [m for m in report.modules if m.spectra]
    if heat is None and not curves:
        raise ParameterError(
            "there is nothing to draw: no norms or singular values of deltas",
            hint="inspect with spectrum=True, an adapter that holds deltas",
        )
    left = _MARGIN + text_width("0" * max(11, *(len(_kind(m)) + 1 for m in report.modules)))
    cell = _cell(heat)
    heat_height = 0 if heat is None else 4 * _LINE + cell * len(heat.kinds)
    width = left + max(_CHART[0] + 240, 0 if heat is None else cell * heat.layers) + _MARGIN
    height = 2 * _MARGIN + _LINE + heat_height + (_CHART[1] + 4 * _LINE if curves else 0)
    picture = Picture(width, height)
    picture.text(_MARGIN, _MARGIN, title or "adapter")
    top = _MARGIN + 2 * _LINE
    if heat is not None:
        _heat(picture, heat, left, top, cell)
    if curves:
        _curves(picture, curves, left, top + heat_height)
    return picture.png()


def _kind(module: ModuleReport) -> str:
    place = place_of(module)
    return place[0] if place else module.module.rpartition(".")[2]


def _cell(heat: Grid | None) -> int:
    """Side of a cell: smaller where there are very many layers."""
    return _CELL if heat is None else max(4, min(_CELL, 4096 // heat.layers))


def _heat(picture: Picture, heat: Grid, left: int, top: int, cell: int) -> None:
    picture.text(_MARGIN, top, "norm of scale * b a, by layer" + _scale(heat))
    top += _LINE + 8
    for row, kind in enumerate(heat.kinds):
        y = top + row * cell
        picture.text(_MARGIN, y + (cell - 14) // 2, kind)
        for layer in range(heat.layers):
            held = heat.cells.get((kind, layer))
            colour = _GREY if held is None else colour_of(held[1])
            picture.rectangle(left + layer * cell, y, cell - 1, cell - 1, colour)
    every = max(1, math.ceil(text_width("000") / cell))
    for layer in range(0, heat.layers, every):
        picture.text(left + layer * cell, top + len(heat.kinds) * cell + 6, str(layer))


def _scale(heat: Grid) -> str:
    kind = ", logarithmic" if heat.logarithmic else ""
    return f": blue {heat.low:.3g} to yellow {heat.high:.3g}{kind}"


def _curves(picture: Picture, modules: Sequence[ModuleReport], left: int, top: int) -> None:
    width, height = _CHART
    picture.text(_MARGIN, top, "singular values (log10) by their number, a line per matrix")
    top += _LINE + 8
    lines = [
        (_kind(m), [math.log10(v) for v in s.values if v > 0 and math.isfinite(v)])
        for m in modules
        for s in m.spectra or ()
    ]
    lines = [(kind, values) for kind, values in lines if values]
    if not lines:
        picture.text(left, top + height // 2, "all are zero or not finite")
        return
    high = max(max(values) for _, values in lines)
    low = max(min(min(values) for _, values in lines), high - 6)
    low, high = (low - 0.5, high + 0.5) if high - low < 0.5 else (low, high)
    longest = max(2, *(len(values) for _, values in lines))
    _axes(picture, left, top, low, high, longest)
    kinds = list(dict.fromkeys(kind for kind, _ in lines))
    for kind, values in lines:
        colour = _KINDS[kinds.index(kind) % len(_KINDS)]
        across, down = (width - 2) / (longest - 1), height / (high - low)
        heights = [top + (high - max(value, low)) * down for value in values]
        points = [(left + number * across, y) for number, y in enumerate(heights)]
        for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
            picture.line(x0, y0, x1, y1, colour)
    for number, kind in enumerate(kinds[: height // _LINE]):
        y = top + number * _LINE
        picture.rectangle(left + width + 16, y + 2, 20, 10, _KINDS[number % len(_KINDS)])
        picture.text(left + width + 44, y, kind[:15])


def _axes(picture: Picture, left: int, top: int, low: float, high: float, longest: int) -> None:
    width, height = _CHART
    for step in range(5):
        y = top + step * height // 4
        value = f"{high - step * (high - low) / 4:.2f}"
        picture.rectangle(left, y, width, 1, _GREY)
        picture.text(left - text_width(value) - 8, y - 7, value)
    picture.rectangle(left - 2, top, 2, height, BLACK)
    picture.rectangle(left - 2, top + height, width, 2, BLACK)
    for number in sorted({1, (longest + 1) // 2, longest}):
        x = left + round((number - 1) * (width - 2) / (longest - 1))
        picture.text(x - 6, top + height + 10, str(number))
