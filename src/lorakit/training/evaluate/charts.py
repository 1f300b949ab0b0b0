"""Shares as pictures of HTML: a bar with its interval, a table of such bars, a curve over scales,
who was called in whose place. Every text is escaped here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from lorakit.training.evaluate.outcome import INVALID, NO_CALL
from lorakit.training.evaluate.statistics import Share

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 260, 62, 38, 14, 20  # of a curve, in its own units


def bar(share: Share) -> str:
    """A share as a bar, with Wilson's interval as a whisker."""
    if not share.total:
        return ""
    low, high = share.low * 100, share.high * 100
    return (
        f'<div class="bar" title="{escape(str(share))}"><i style="width:{share.share * 100:.2f}%">'
        f'</i><u style="left:{low:.2f}%;width:{high - low:.2f}%"></u></div>'
    )


def bars(title: str, shares: Mapping[str, Share]) -> str:
    """A table of shares by name."""
    rows = "".join(
        f'<tr><td class="name">{escape(name)}</td><td class="wide">{bar(share)}</td>'
        f"<td>{share.share:.1%}</td><td>{share.count} of {share.total}</td></tr>"
        for name, share in shares.items()
    )
    head = f"<th>{escape(title)}</th><th></th><th>right</th><th></th>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{rows}</table></div>'


SERIES = 4  # colours of curves


@dataclass(frozen=True, slots=True)
class Point:
    """A value over a scale, with its interval; text is what a reader of the point sees."""

    at: float
    value: float
    low: float
    high: float
    text: str


def curve(lines: Mapping[str, Sequence[Point]], ticks: Sequence[tuple[float, str]]) -> str:
    """Values over scales as SVG, each with the band of its intervals; points are sorted by `at`.

    lines: by name; a single one needs none.
    """
    points = [point for line in lines.values() for point in line]
    frame = _Frame(
        first=min(p.at for p in points),
        last=max(p.at for p in points),
        least=min([*(p.low for p in points), *(value for value, _ in ticks)]),
        most=max([*(p.high for p in points), *(value for value, _ in ticks)]),
    )
    parts = [
        f'<path class="grid" d="M{LEFT} {frame.y(value):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{frame.y(value) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for value, text in ticks
    ]
    parts += [_line(line, frame, number) for number, line in enumerate(lines.values())]
    parts += _scales(next(iter(lines.values())), frame)
    said = "; ".join(" ".join([name, *(p.text for p in line)]) for name, line in lines.items())
    names = "".join(
        f'<span class="s{number % SERIES}">{escape(name)}</span> '
        for number, name in enumerate(lines)
        if name
    )
    return (
        f'<p class="names">{names}</p>'
        * bool(names)
        + f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """From values to places in the picture."""

    first: float
    last: float
    least: float
    most: float

    def x(self, at: float) -> float:
        share = (at - self.first) / ((self.last - self.first) or 1.0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (self.most - value) / ((self.most - self.least) or 1.0)
        return TOP + share * (HEIGHT - TOP - BOTTOM)

    def path(self, pairs: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(at):.1f} {self.y(value):.1f}" for at, value in pairs)


def _line(points: Sequence[Point], frame: _Frame, number: int) -> str:
    upper = [(p.at, p.high) for p in points]
    lower = [(p.at, p.low) for p in reversed(points)]
    dots = "".join(
        f'<circle class="dot" cx="{frame.x(p.at):.1f}" cy="{frame.y(p.value):.1f}" r="5">'
        f"<title>{escape(p.text)}</title></circle>"
        for p in points
    )
    return (
        f'<g class="s{number % SERIES}"><path class="band" d="{frame.path([*upper, *lower])}Z"/>'
        f'<path class="line" d="{frame.path((p.at, p.value) for p in points)}"/>{dots}</g>'
    )


def _scales(points: Sequence[Point], frame: _Frame) -> list[str]:
    """The scales below the picture, as many as there is room for."""
    gaps = [frame.x(b.at) - frame.x(a.at) for a, b in pairwise(points)]
    every = max(1, math.ceil(64 / min(gaps))) if gaps and min(gaps) > 0 else 1
    return [
        f'<text x="{frame.x(p.at):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{p.at:g}</text>'
        for p in points[::every]
    ]


def matrix(called: Counter[tuple[str, str]]) -> str:
    """Wanted tools in rows, called ones in columns; the share of a row as its shade."""
    rows = _ordered(wanted for wanted, _ in called)
    columns = _ordered([*(name for name in rows if name != NO_CALL), *(c for _, c in called)])
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = ""
    for wanted in rows:
        total = sum(n for (name, _), n in called.items() if name == wanted)
        cells = "".join(_cell(called[wanted, name], total, wanted == name) for name in columns)
        body += f"<tr><th>{escape(wanted)}</th>{cells}</tr>"
    return (
        '<div class="scroll"><table class="matrix"><thead><tr><th>wanted \\ called</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(count: int, total: int, right: bool) -> str:
    if not count:
        return '<td class="zero">·</td>'
    shade = f"background:rgba(var(--data),{0.1 + 0.6 * count / total:.2f})"
    return f'<td style="{shade}"{" class=right" * right}>{count}</td>'


def _ordered(names: Iterable[str]) -> list[str]:
    """Tools by name, then what stands in the place of one."""
    last = (NO_CALL, INVALID)
    found = set(names)
    return [*sorted(found - set(last)), *(name for name in last if name in found)]
