"""The curves of a run as one SVG picture: loss, evaluation, learning rate, over the steps.

Text is text, so that it can be searched and copied; the file has no script and loads nothing. It is
drawn on a white card, which a dark page shows as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[int, float]  # a step and a value

WIDTH = 760
LEFT, RIGHT = 64, 92  # room for the axis' labels, and for the last value
GAP = 44  # between panels, for titles
MOST_POINTS = 400  # of a curve; more are averaged
SMOOTHING = 24  # a smooth curve shows means over a 24th of the run
LOG_FROM = 30.0  # largest by smallest value from which a logarithmic axis says more
INK, FAINT, GRID = "#24292f", "#6e7781", "#e6e8eb"
BLUE, GREEN, ORANGE = "#0a5fd0", "#17803d", "#b35900"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One diagram. share: values are from 0 to 1, shown as percent. smooth: draw a mean over it.

    reference: a value to compare with and its name, drawn as a broken line.
    """

    title: str
    points: Sequence[Point]
    colour: str
    height: int
    share: bool = False
    smooth: bool = False
    dots: bool = False
    reference: tuple[float, str] | None = None


def draw(panels: Sequence[Panel], *, title: str) -> str:
    """The picture; panels without points are left out, and what is not finite is."""
    shown = [panel for panel in panels if _finite(panel.points)]
    last = max((step for panel in shown for step, _ in panel.points), default=1)
    height = 64 + sum(panel.height + GAP for panel in shown) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="{INK}" '
        f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
        _text(LEFT, 30, title, size=15, weight=600),
    ]
    top = 68
    for panel in shown:
        parts += _panel(panel, top, last, steps=panel is shown[-1])
        top += panel.height + GAP
    if not shown:
        parts.append(_text(LEFT, 54, "no step was taken", colour=FAINT))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: int, last: int, *, steps: bool) -> Iterator[str]:
    points = _thinned(_finite(panel.points))
    axis = _Axis.of(panel, points, top)
    yield _text(LEFT, top - 10, panel.title + (" (log scale)" if axis.log else ""), weight=600)
    for value, label in axis.ticks():
        y = axis.y(value)
        yield _line(LEFT, y, WIDTH - RIGHT, y, GRID)
        yield _text(LEFT - 8, y + 4, label, colour=FAINT, anchor="end")
    bottom = top + panel.height
    for step in _nice(0, last, 6, whole=True):
        x = _x(step, last)
        yield _line(x, bottom, x, bottom + 4, FAINT)
        if steps:
            unit = "step " if step == 0 else ""
            yield _text(x, bottom + 18, f"{unit}{step:,.0f}", colour=FAINT, anchor="middle")
    labels: list[tuple[float, str, str]] = []
    if panel.reference is not None:
        value, name = panel.reference
        y = axis.y(value)
        yield _line(LEFT, y, WIDTH - RIGHT, y, ORANGE, dash=True)
        labels.append((y, f"{name} {axis.said(value)}", ORANGE))
    curve = _smooth(points) if panel.smooth else points
    if panel.smooth:
        yield _curve(points, axis, last, panel.colour, width=1, opacity=0.3)
    yield _curve(curve, axis, last, panel.colour, width=2)
    if panel.dots:
        for step, value in points:
            yield f'<circle cx="{_x(step, last):.1f}" cy="{axis.y(value):.1f}" r="3" ' + (
                f'fill="{panel.colour}"><title>step {step}: {axis.said(value)}</title></circle>'
            )
    labels.append((axis.y(curve[-1][1]), axis.said(curve[-1][1]), panel.colour))
    for y, text, colour in _apart(labels):
        yield _text(WIDTH - RIGHT + 8, y + 4, text, colour=colour, weight=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """The vertical axis of a panel: from low to high, `top` and `height` in pixels."""

    low: float
    high: float
    top: int
    height: int
    log: bool
    share: bool

    @classmethod
    def of(cls, panel: Panel, points: Sequence[Point], top: int) -> _Axis:
        values = [value for _, value in points]
        if panel.reference is not None:
            values.append(panel.reference[0])
        low, high = min(values), max(values)
        log = not panel.share and low > 0 and high / low > LOG_FROM and panel.smooth
        if panel.share:
            low, high = 0.0, 1.0
        elif log:
            low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        else:
            low, high = min(low, 0.0), max(high, 1e-9)
            step = _spacing(low, high, 4)
            low, high = math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step
        return cls(low=low, high=high, top=top, height=panel.height, log=log, share=panel.share)

    def y(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        part = (value - low) / (high - low)
        return self.top + self.height * (1 - min(max(part, 0.0), 1.0))

    def ticks(self) -> list[tuple[float, str]]:
        if self.share:
            return [(value, f"{value:.0%}") for value in (0.0, 0.5, 1.0)]
        if not self.log:
            return [(value, f"{value:g}") for value in _nice(self.low, self.high, 4)]
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [(10.0**power, f"{10.0**power:g}") for power in range(first, last + 1)]

    def said(self, value: float) -> str:
        return f"{value:.0%}" if self.share else f"{value:.3g}"


def _nice(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About `count` round values from low to high."""
    step = _spacing(low, high, count)
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _spacing(low: float, high: float, count: int) -> float:
    """1, 2 or 5 times a power of ten, so that about `count` of it go from low to high."""
    raw = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= raw * 0.999)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Means of neighbours, where there are more points than can be seen."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Means of each point's neighbours: fewer at the start, where a loss falls fast."""
    reach = len(points) // SMOOTHING // 2
    found = []
    for at, (step, _) in enumerate(points):
        side = min(reach, at)
        near = [value for _, value in points[at - side : at + side + 1]]
        found.append((step, sum(near) / len(near)))
    return found


def _apart(labels: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Labels at the right, from the top down, a line's height apart."""
    placed: list[tuple[float, str, str]] = []
    for y, text, colour in sorted(labels):
        least = placed[-1][0] + 15 if placed else y
        placed.append((max(y, least), text, colour))
    return placed


def _x(step: float, last: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)


def _curve(
    points: Sequence[Point], axis: _Axis, last: int, colour: str, *, width: int, opacity: float = 1
) -> str:
    path = " ".join(f"{_x(step, last):.1f},{axis.y(value):.1f}" for step, value in points)
    faded = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
        f'{faded} stroke-linejoin="round"/>'
    )


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, *, dash: bool = False) -> str:
    dashed = ' stroke-dasharray="5 4"' if dash else ""
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"{dashed}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    colour: str = INK,
    anchor: str = "start",
    size: int | None = None,
    weight: int | None = None,
) -> str:
    more = "" if anchor == "start" else f' text-anchor="{anchor}"'
    more += "" if size is None else f' font-size="{size}"'
    more += "" if weight is None else f' font-weight="{weight}"'
    more += "" if colour == INK else f' fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'
