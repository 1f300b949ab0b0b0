"""Whether a drawing can be read: nothing outside of it, no text upon another."""

from itertools import combinations
from xml.etree import ElementTree

from lorakit.drawing.measure import text_width
from lorakit.drawing.shapes import Dot, Path, Rect, Words

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    """The words of an SVG file, in their order; it has to be well-formed."""
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def box(shape):
    """(left, top, right, bottom)."""
    if isinstance(shape, Rect):
        return shape.x, shape.y, shape.x + shape.width, shape.y + shape.height
    if isinstance(shape, Dot):
        r = shape.radius
        return shape.x - r, shape.y - r, shape.x + r, shape.y + r
    if isinstance(shape, Path):
        xs, ys = zip(*shape.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    width = text_width(shape.text, shape.size, bold=shape.bold, mono=shape.mono)
    left = shape.x - width * {"start": 0, "middle": 0.5, "end": 1}[shape.anchor]
    return left, shape.y - 0.75 * shape.size, left + width, shape.y + 0.2 * shape.size


def faults(drawing):
    """What lies outside, and which texts lie upon each other."""
    for shape in drawing.shapes:
        left, top, right, bottom = box(shape)
        if left < -1 or top < -1 or right > drawing.width + 1 or bottom > drawing.height + 1:
            yield f"outside: {shape}"
    words = [shape for shape in drawing.shapes if isinstance(shape, Words) and shape.text]
    for one, other in combinations(words, 2):
        a, b = box(one), box(other)
        if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1:
            yield f"upon each other: {one.text!r} and {other.text!r}"
