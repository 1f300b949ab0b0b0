"""Charts of values alone: lines over an axis, a heat map's cells, a bar that explains colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorakit.drawing.axes import SIZE, Frame, grid_lines, ticks
from lorakit.drawing.drawing import Drawing
from lorakit.drawing.measure import text_width
from lorakit.drawing.shapes import Anchor, Dot, Path, Point, Rect, Shape, Words
from lorakit.drawing.theme import SERIES, Colour, as_hex

WIDTH = 760.0
MARGIN = 24.0
TITLE = 17.0
BAR, BAR_HEIGHT = 192.0, 32.0  # of what explains colours
_STEPS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart. band: (x, low, high) of an interval around it; hints: of each point."""

    name: str
    points: tuple[Point, ...]
    band: tuple[tuple[float, float, float], ...] = ()
    hints: tuple[str, ...] = ()
    dotted: bool = True  # a dot at each point
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis shows. marks: where it is marked; None chooses round numbers."""

    label: str
    marks: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None
    written: Callable[[float], str] = "{:g}".format


def heading(title: str, about: str, width: float) -> tuple[list[Shape], float]:
    """A title, and lines below it; and where the rest begins."""
    shapes: list[Shape] = []
    y = MARGIN + TITLE * 0.8
    for line in folded(title, TITLE, width - 2 * MARGIN, bold=True):
        shapes.append(Words(MARGIN, y, line, "text", TITLE, bold=True))
        y += 22
    for line in folded(about, 12.5, width - 2 * MARGIN) if about else []:
        shapes.append(Words(MARGIN, y, line, "soft", 12.5))
        y += 18
    return shapes, y + 4


def folded(
    text: str, size: float, room: float, *, bold: bool = False, mono: bool = False
) -> list[str]:
    """Lines that fit, broken at spaces; in a longer word behind its last sign, or where it ends."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(joined, size, bold=bold, mono=mono) <= room:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if text_width(lines[-1] + letter, size, bold=bold, mono=mono) > room:
                kept = _broken(lines[-1])
                lines[-1:] = [lines[-1][:kept], lines[-1][kept:]]
            lines[-1] += letter
    return [line for line in lines if line] or [""]


def _broken(line: str) -> int:
    """How much of a full line to keep: up to a sign in its last third, else all of it."""
    places = (n + 1 for n in range(len(line) - 1, 2 * len(line) // 3, -1) if not line[n].isalnum())
    return next(places, len(line))


def background(width: float, height: float) -> Rect:
    return Rect(0, 0, width, height, "back")


def line_chart(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    title: str,
    about: str = "",
    said: str = "",
    height: float = 300.0,
) -> Drawing:
    """Lines over one axis, with their names above. A value that is not finite leaves a gap."""
    shapes, top = heading(title, about, WIDTH)
    if len(lines) > 1:
        names, top = legend(lines, top + 10)
        shapes += names
    shapes.append(Words(MARGIN, top + 16, y.label, "soft", SIZE))
    frame, up = _frame(lines, x, y, top + 30, height)
    across = x.marks or tuple(ticks(frame.first, frame.last, 9))
    shapes += grid_lines(frame, across=across, up=up, x_text=x.written, y_text=y.written)
    for number, line in enumerate(lines):
        shapes += _drawn(line, frame, SERIES[number % len(SERIES)])
    middle = frame.left + frame.width / 2
    shapes.append(Words(middle, frame.bottom + 38, x.label, "soft", SIZE, "middle"))
    total = frame.bottom + 38 + MARGIN * 0.8
    everything = (background(WIDTH, total), *shapes)
    return Drawing(width=WIDTH, height=total, title=title, said=said or about, shapes=everything)


def legend(lines: Sequence[Line], top: float) -> tuple[list[Shape], float]:
    """Names behind a piece of their line, in rows; and where the rest begins."""
    shapes: list[Shape] = []
    x, y = MARGIN, top
    for number, line in enumerate(lines):
        room = text_width(line.name, 12) + 46
        if x > MARGIN and x + room > WIDTH - MARGIN:
            x, y = MARGIN, y + 20
        ink = SERIES[number % len(SERIES)]
        shapes.append(Path(((x, y), (x + 20, y)), ink, 3, dashed=line.dashed))
        shapes.append(Words(x + 27, y + 4, line.name, "text", 12))
        x += room
    return shapes, y + 12


def _frame(
    lines: Sequence[Line], x: Axis, y: Axis, top: float, height: float
) -> tuple[Frame, Sequence[float]]:
    """Where the values go, and the marks of the y axis, whose texts decide how far left."""
    places = [at for line in lines for at, _ in line.points]
    values = [v for line in lines for _, v in line.points if math.isfinite(v)]
    values += [v for line in lines for _, *ends in line.band for v in ends if math.isfinite(v)]
    low = min(values, default=0.0) if y.low is None else y.low
    high = max(values, default=1.0) if y.high is None else y.high
    if not high > low:
        high = low + 1.0
    marks = ticks(low, high, 6) if y.marks is None else y.marks
    step = marks[1] - marks[0] if len(marks) > 1 else 0.0
    if y.high is None and marks and marks[-1] < high - 1e-9 and step:
        marks = [*marks, marks[-1] + step]
    if y.low is None and marks and marks[0] > low + 1e-9 and step:
        marks = [marks[0] - step, *marks]
    left = MARGIN + max(text_width(y.written(mark), SIZE) for mark in marks) + 10
    frame = Frame(
        left=left, top=top, width=WIDTH - left - MARGIN - 8, height=height,
        first=min(places) if x.low is None else x.low,
        last=max(places) if x.high is None else x.high,
        low=min([low, *marks]), high=max([high, *marks]),
    )  # fmt: skip
    return frame, marks


def _drawn(line: Line, frame: Frame, ink: str) -> list[Shape]:
    shapes: list[Shape] = []
    if line.band:
        upper = [(at, high) for at, _, high in line.band]
        lower = [(at, low) for at, low, _ in reversed(line.band)]
        shapes.append(Path(frame.line([*upper, *lower]), ink, filled=True, opacity=0.16))
    for piece in _pieces(line.points):
        shapes.append(Path(frame.line(piece), ink, 2.5, dashed=line.dashed))
    if line.dotted:
        hints = line.hints or ("",) * len(line.points)
        for (at, value), hint in zip(line.points, hints, strict=True):
            if math.isfinite(value):
                shapes.append(Dot(frame.x(at), frame.y(value), 4, ink, hint))
    return shapes


def _pieces(points: Sequence[Point]) -> list[list[Point]]:
    """Runs of points whose values are finite, of two and more."""
    pieces: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            pieces[-1].append(point)
        else:
            pieces.append([])
    return [piece for piece in pieces if len(piece) > 1]


def colour_bar(
    left: float,
    top: float,
    colour: Callable[[float], Colour],
    marks: Sequence[tuple[float, str]],
    label: str,
) -> list[Shape]:
    """What colours mean: a bar, marks (share, text) below it, its label behind it.

    It is BAR_HEIGHT high.
    """
    step, left = BAR / _STEPS, round(left)  # whole pixels, so that no seam shows
    shapes: list[Shape] = [
        Rect(left + n * step, top, step, 10, as_hex(colour((n + 0.5) / _STEPS)))
        for n in range(_STEPS)
    ]
    for share, text in marks:
        x = left + share * BAR
        shapes.append(Path(((x, top + 10), (x, top + 14)), "axis"))
        shapes.append(Words(x, top + 26, text, "soft", SIZE, _anchor(share)))
    shapes.append(Words(left + BAR + 12, top + 9, label, "soft", SIZE))
    return shapes


def _anchor(share: float) -> Anchor:
    return "start" if share <= 0 else "end" if share >= 1 else "middle"
