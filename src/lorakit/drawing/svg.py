"""A drawing as SVG 1.1 with real text.

Colours stand twice: as attributes, which every viewer shows, and as classes that a style sheet
changes where the viewer is dark. No script, no font and no address is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from lorakit.drawing.shapes import Dot, Path, Rect, Shape, Words
from lorakit.drawing.theme import DARK, LIGHT

if TYPE_CHECKING:
    from lorakit.drawing.drawing import Drawing

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def to_svg(drawing: Drawing) -> str:
    """The whole file, one shape a line."""
    width, height = _number(drawing.width), _number(drawing.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="{escape(SANS)}">',
        f"<title>{legal(drawing.title)}</title>",
        f"<desc>{legal(drawing.said)}</desc>" if drawing.said else "",
        f"<style>{_dark(drawing.shapes)}</style>",
        *(WRITERS[type(shape)](shape) for shape in drawing.shapes),
        "</svg>",
    ]
    return "\n".join(filter(None, lines)) + "\n"


def legal(text: str) -> str:
    """Text that XML takes: escaped, and what does not print spelled out."""
    return escape(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def _dark(shapes: Sequence[Shape]) -> str:
    used = sorted({ink for shape in shapes for ink in _inks(shape) if ink in DARK})
    rules = [f".f-{ink}{{fill:{DARK[ink]}}}.e-{ink}{{stroke:{DARK[ink]}}}" for ink in used]
    return f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"


def _inks(shape: Shape) -> tuple[str, ...]:
    return (shape.ink, shape.edge) if isinstance(shape, Rect) else (shape.ink,)


def _rect(shape: Rect) -> str:
    place = _attributes(x=shape.x, y=shape.y, width=shape.width, height=shape.height)
    corner = _attributes(rx=shape.corner) if shape.corner else ""
    painted = _paint(fill=shape.ink, stroke=shape.edge)
    return _closed(f"rect{place}{corner}{painted}{_opacity(shape.opacity)}", "rect", shape.hint)


def _path(shape: Path) -> str:
    points = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.points)
    if shape.filled:
        painted = _paint(fill=shape.ink, stroke="")
        return f'<polygon points="{points}"{painted}{_opacity(shape.opacity)}/>'
    dashes = ' stroke-dasharray="4 4"' if shape.dashed else ""
    painted = _paint(fill="none", stroke=shape.ink)
    return (
        f'<polyline points="{points}"{painted} stroke-width="{_number(shape.width)}"{dashes}'
        f' stroke-linejoin="round" stroke-linecap="round"{_opacity(shape.opacity)}/>'
    )


def _dot(shape: Dot) -> str:
    place = _attributes(cx=shape.x, cy=shape.y, r=shape.radius)
    return _closed(f"circle{place}{_paint(fill=shape.ink, stroke='')}", "circle", shape.hint)


def _words(shape: Words) -> str:
    how = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
    how += ' font-weight="600"' * shape.bold
    how += f' font-family="{escape(MONO)}"' * shape.mono
    if shape.upwards:
        how += f' transform="rotate(-90 {_number(shape.x)} {_number(shape.y)})"'
    place = _attributes(x=shape.x, y=shape.y, font_size=shape.size)
    return f"<text{place}{_paint(fill=shape.ink, stroke='')}{how}>{legal(shape.text)}</text>"


WRITERS: dict[type, Callable[[Any], str]] = {Rect: _rect, Path: _path, Dot: _dot, Words: _words}


def _closed(begin: str, tag: str, hint: str) -> str:
    return f"<{begin}><title>{legal(hint)}</title></{tag}>" if hint else f"<{begin}/>"


def _attributes(**values: float) -> str:
    return "".join(f' {k.replace("_", "-")}="{_number(v)}"' for k, v in values.items())


def _paint(*, fill: str, stroke: str) -> str:
    """Both colours, and the classes by which a dark viewer finds its own."""
    marks = [f"{mark}-{ink}" for mark, ink in (("f", fill), ("e", stroke)) if ink in LIGHT]
    said = f' class="{" ".join(marks)}"' if marks else ""
    said += f' fill="{LIGHT.get(fill, fill)}"'
    return said + (f' stroke="{LIGHT.get(stroke, stroke)}"' if stroke else "")


def _opacity(value: float) -> str:
    return "" if value == 1 else f' opacity="{_number(value)}"'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
