"""Diffs and sweeps as drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lorakit.drawing import Drawing
from lorakit.drawing.charts import (
    MARGIN,
    WIDTH,
    Axis,
    Line,
    background,
    folded,
    heading,
    line_chart,
)
from lorakit.drawing.measure import shortened
from lorakit.drawing.shapes import Path, Rect, Shape, Words
from lorakit.effect.diff import Diff, DiffToken
from lorakit.effect.sweep import ExampleSweep, Sweep
from lorakit.training.evaluate.evaluation import Evaluation, perplexity_text
from lorakit.training.evaluate.statistics import Share

ROW = 22.0  # of a token
# Where the columns of a diff begin: token, base, adapter, KL, what the base would have said.
TOKEN, BASE, ADAPTED, KL, INSTEAD = MARGIN, 206.0, 342.0, 478.0, 628.0
_TRACK = 74.0  # of a probability
_KL_TRACK = 88.0
_LEAST = 0.004  # a share below this has no bar


def names(adapters: Mapping[str, float]) -> str:
    """Adapters with their scales, as the command line writes them: home, style:0.5."""
    said = (name if scale == 1 else f"{name}:{scale:g}" for name, scale in adapters.items())
    return ", ".join(said)


def visible(token: str) -> str:
    """A token for a column: spaces and the ends of lines as signs."""
    signs = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in signs)


def percent(share: float, places: int = 1) -> str:
    """A probability for people, with what is neither 0 nor 1 never shown as such."""
    least = 10.0 ** -(places + 2)
    if 0 < share < least / 2:
        return f"<{least:.{places}%}"
    return f">{1 - least:.{places}%}" if 1 - least / 2 <= share < 1 else f"{share:.{places}%}"


def plot_diff(found: Diff, *, title: str = "") -> Drawing:
    """The answers of both, and each token with its probabilities and its KL."""
    who = names(found.adapters)
    about = f"KL({who} || base): {found.kl:.3g} nats per token, {len(found.tokens)} tokens"
    shapes, top = heading(title or f"base and {who}", about, WIDTH)
    said, top = _answers({"base": found.base_answer, who: found.adapted_answer}, top + 14)
    shapes += said
    if found.answer != found.adapted_answer:
        said, top = _answers({"compared on": found.answer}, top)
        shapes += said
    shapes += _titles(who, top + 22)
    top += 32
    most = max(each.kl for each in found.tokens)
    for number, each in enumerate(found.tokens):
        shapes += _token(each, top + number * ROW, most)
    height = top + len(found.tokens) * ROW + MARGIN
    everything = (background(WIDTH, height), *shapes)
    return Drawing(
        width=WIDTH, height=height, title=title or f"base and {who}", said=about, shapes=everything
    )


def _answers(told: Mapping[str, str], top: float) -> tuple[list[Shape], float]:
    shapes: list[Shape] = []
    left = MARGIN + 116
    for name, text in told.items():
        shapes.append(Words(MARGIN, top + 4, shortened(name, 12, 108), "soft", 12))
        lines = [
            line
            for part in (text.splitlines() or ["(nothing)"])
            for line in folded(visible_text(part), 12, WIDTH - left - MARGIN, mono=True)
        ]
        for line in lines:
            shapes.append(Words(left, top + 4, line, "text", 12, mono=True))
            top += 17
        top += 6
    return shapes, top


def visible_text(text: str) -> str:
    """A line of an answer, with what does not print spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _titles(who: str, y: float) -> list[Shape]:
    columns = (
        (TOKEN, "token"), (BASE, "base"), (ADAPTED, shortened(who, 11, 126)),
        (KL, "KL, nats"), (INSTEAD, "base's favourite"),
    )  # fmt: skip
    line = Path(((MARGIN, y + 6), (WIDTH - MARGIN, y + 6)), "grid")
    return [*(Words(x, y, text, "soft", 11) for x, text in columns), line]


def _token(each: DiffToken, y: float, most: float) -> list[Shape]:
    base_line = y + 15
    share = each.kl / most if most else 0.0
    hint = (
        f"{visible(each.text)}: base {percent(each.base)}, adapter {percent(each.adapted)}, "
        f"KL {each.kl:.3g} nats"
    )
    shapes: list[Shape] = [
        Rect(TOKEN - 6, y + 1, BASE - TOKEN - 8, ROW - 2, "s4", hint, opacity=0.30 * share,
             corner=4),
        Words(TOKEN, base_line, shortened(visible(each.text), 12.5, BASE - TOKEN - 20, mono=True),
              "text", 12.5, mono=True),
        *_bar(BASE, y, _TRACK, each.base, "s0", percent(each.base)),
        *_bar(ADAPTED, y, _TRACK, each.adapted, "s1", percent(each.adapted)),
        *_bar(KL, y, _KL_TRACK, share, "s4", f"{each.kl:.2f}"),
    ]  # fmt: skip
    text, chance = each.base_best
    if each.base_best_token != each.token:
        room = WIDTH - MARGIN - INSTEAD - 44
        token = shortened(visible(text), 12, room, mono=True)
        shapes.append(Words(INSTEAD, base_line, token, "text", 12, mono=True))
        shapes.append(Words(WIDTH - MARGIN, base_line, percent(chance), "soft", 11, "end"))
    return shapes


def _bar(x: float, y: float, width: float, share: float, ink: str, text: str) -> list[Shape]:
    return [
        Rect(x, y + 6, width, 10, "empty", corner=2),
        *([Rect(x, y + 6, width * share, 10, ink, corner=2)] if share > _LEAST else []),
        Words(x + width + 6, y + 15, text, "soft", 11),
    ]


def plot_sweep(found: Sweep, *, title: str = "") -> Drawing:
    """KL against the base and against scale 1, over the scales."""
    who = names(found.adapters)
    prompts = len(found.points[0].answers)
    lines = [
        Line(
            name=name,
            points=tuple((p.scale, getattr(p, field)) for p in found.points),
            hints=tuple(f"{p.scale:g}: {getattr(p, field):.3g} nats" for p in found.points),
        )
        for name, field in (("against the base", "kl_base"), ("against scale 1", "kl_full"))
    ]
    plural = "s" * (prompts != 1)
    return line_chart(
        lines,
        _scales([p.scale for p in found.points], who),
        Axis(label="KL, nats per token", low=0.0),
        title=title or f"{who} over scales",
        about=f"{prompts} prompt{plural}; read on the answer at scale 1",
    )


def plot_examples(found: ExampleSweep, *, title: str = "") -> Drawing:
    """Right answers with their 95% intervals, or perplexity, over the scales; a line per file."""
    who, first = names(found.adapters), found.points[0][1]
    scales = _scales([scale for scale, _ in found.points], who)
    best, evaluation = found.best
    about = f"best at {best:g}: {evaluation.headline}"
    name = title or f"{who} over scales"
    if first.by_perplexity:
        points = [(scale, each.perplexity or math.nan) for scale, each in found.points]
        texts = tuple(f"{scale:g}: {perplexity_text(value)}" for scale, value in points)
        line = Line(name="perplexity", points=tuple(points), hints=texts)
        return line_chart([line], scales, Axis(label="perplexity"), title=name, about=about)
    files = [*first.by_file] if len(first.by_file) > 1 else [""]
    lines = [_shares(file, found.points) for file in files]
    share = Axis(label="right answers", low=0.0, high=1.0, written="{:.0%}".format)
    return line_chart(lines, scales, share, title=name, about=about)


def _shares(file: str, points: Sequence[tuple[float, Evaluation]]) -> Line:
    shares: list[tuple[float, Share]] = [
        (scale, each.by_file[file] if file else each.exact) for scale, each in points
    ]
    return Line(
        name=file,
        points=tuple((scale, share.share) for scale, share in shares),
        band=tuple((scale, share.low, share.high) for scale, share in shares),
        hints=tuple(f"{scale:g}: {share}" for scale, share in shares),
    )


def _scales(scales: Sequence[float], who: str) -> Axis:
    marks = tuple(scales)
    return Axis(label=f"scale of {shortened(who, 11, 400)}", marks=marks)
