"""A drawing as PNG, by matplotlib, in the colours of a light viewer."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lorakit.drawing.shapes import Dot, Path, Rect, Words
from lorakit.drawing.theme import LIGHT
from lorakit.errors import MissingExtraError

if TYPE_CHECKING:
    from lorakit.drawing.drawing import Drawing

DPI = 100.0
SCALE = 2.0  # pixels of the file for one of the drawing
POINT = 72.0 / DPI  # a pixel in points, matplotlib's unit of fonts and lines
ANCHOR = {"start": "left", "middle": "center", "end": "right"}


def to_png(drawing: Drawing) -> bytes:
    """The bytes of the file. Raises MissingExtraError without matplotlib."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(drawing.width / DPI, drawing.height / DPI), dpi=DPI * SCALE)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    for order, shape in enumerate(drawing.shapes):
        PAINTERS[type(shape)](axes, shape, order)
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def require_matplotlib() -> None:
    """Raises MissingExtraError where a picture could not be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "PNG is drawn by matplotlib, which is not installed",
            hint="pip install 'lorakit[plot]', or name a .svg file",
        ) from error


def _colour(ink: str) -> str:
    return LIGHT.get(ink, ink)


def _rect(axes: Any, shape: Rect, order: int) -> None:
    from matplotlib.patches import Rectangle

    edge = _colour(shape.edge) if shape.edge else "none"
    axes.add_patch(
        Rectangle(
            (shape.x, shape.y), shape.width, shape.height, facecolor=_colour(shape.ink),
            edgecolor=edge, linewidth=POINT, alpha=shape.opacity, zorder=order,
        )
    )  # fmt: skip


def _path(axes: Any, shape: Path, order: int) -> None:
    x, y = zip(*shape.points, strict=True)
    if shape.filled:
        axes.fill(x, y, color=_colour(shape.ink), alpha=shape.opacity, linewidth=0, zorder=order)
        return
    axes.plot(
        x, y, color=_colour(shape.ink), linewidth=shape.width * POINT, alpha=shape.opacity,
        linestyle=(0, (4, 4)) if shape.dashed else "-", solid_capstyle="round", zorder=order,
    )  # fmt: skip


def _dot(axes: Any, shape: Dot, order: int) -> None:
    from matplotlib.patches import Circle

    circle = Circle((shape.x, shape.y), shape.radius, color=_colour(shape.ink), zorder=order)
    axes.add_patch(circle)


def _words(axes: Any, shape: Words, order: int) -> None:
    axes.text(
        shape.x, shape.y, shape.text, color=_colour(shape.ink), fontsize=shape.size * POINT * 0.94,
        ha=ANCHOR[shape.anchor], va="baseline", weight="bold" if shape.bold else "normal",
        family="monospace" if shape.mono else "sans-serif", rotation=90 if shape.upwards else 0,
        rotation_mode="anchor", zorder=order, parse_math=False,
    )  # fmt: skip


PAINTERS: dict[type, Callable[[Any, Any, int], None]] = {
    Rect: _rect,
    Path: _path,
    Dot: _dot,
    Words: _words,
}
