"""A comparison as one HTML page that needs nothing else: no script, no font, no address.

Texts come from data and from models; each is escaped, and the page forbids itself to load anything.
"""

from __future__ import annotations

import math
from html import escape

from lorakit.sources import default_name
from lorakit.training.evaluate.charts import Point, bar, bars, curve, matrix
from lorakit.training.evaluate.comparison import Comparison, Side
from lorakit.training.evaluate.evaluation import Evaluation, perplexity_text
from lorakit.training.evaluate.outcome import Outcome
from lorakit.training.evaluate.statistics import Share, p_text
from lorakit.training.evaluate.style import CSS
from lorakit.training.facts import lorakit_version

MAX_ANSWERS = 200  # wrong answers that are shown
OPEN_ANSWERS = 10  # of them without a click
MAX_TOOLS = 30  # in a matrix
OPEN_PHRASINGS = 12
MAX_TEXT = 2000  # characters of a request or an answer
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(found: Comparison, *, title: str) -> str:
    """The page; title says what was evaluated on."""
    first = found.first.evaluation
    sections = [
        _summary(found),
        _section("Beside each other", _sides(found)) if len(found.sides) > 1 else "",
        _section("By the adapter's scale", _sweep(found)) if len(found.sweep) > 1 else "",
        _section("Known and new", bars("", found.by_novelty)) if found.by_novelty else "",
        _section("By tool", bars("tool", first.by_tool)) if first.by_tool else "",
        _called(first),
        _phrasings(first),
        _section("By file", bars("file", first.by_file)) if len(first.by_file) > 1 else "",
        _wrong(first),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: {escape(first.headline)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(found.first.name)}</h1>"
        f'<p class="soft">{escape(_about(found, title))}</p></header>'
        f"<main>{''.join(sections)}</main><footer>{_footer(found)}</footer></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _about(found: Comparison, title: str) -> str:
    first = found.first
    tools = "with" if found.declare else "without"
    engine = first.contestant.engine
    said = [
        f"{len(first.evaluation.outcomes)} examples of {title}",
        f"on {default_name(first.contestant.base)}",
    ]
    if any(each.example.tools for each in first.evaluation.outcomes):
        said.append(f"{tools} the tools' declarations in the prompt")
    if engine or first.contestant.quantize != "none":
        held = first.contestant.quantize
        said.append(", ".join(filter(None, [engine, held if held != "none" else ""])))
    return " · ".join(said)


def _summary(found: Comparison) -> str:
    first = found.first.evaluation
    if first.by_perplexity:
        number, picture = perplexity_text(first.perplexity), ""
        said = f"perplexity of {len(first.outcomes)} texts; lower is better"
    else:
        number, picture = f"{first.score:.1%}", bar(first.exact)
        said = f"{first.exact.count} of {first.exact.total} answers are right in everything"
        said += f"; 95% interval {first.exact.low * 100:.1f}-{first.exact.high:.1%}"
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.verdict[1:])
    return (
        f'<section><div class="hero"><b>{number}</b><div class="said"><p>{escape(said)}</p>'
        f'{picture}</div></div><div class="facts">{_facts(first)}</div>'
        + (f'<ul class="verdict">{lines}</ul>' if lines else "")
        + "</section>"
    )


FACTS = {
    "names": "calls of the right tool",
    "arguments": "arguments right, in those",
    "invalid": "answers that cannot be carried out",
    "silent": "called nothing, but should have",
    "abstained": "called nothing where nothing fits",
    "parallel": "several calls at once, all right",
}


def _facts(first: Evaluation) -> str:
    shares: list[tuple[str, Share]] = [(text, getattr(first, name)) for name, text in FACTS.items()]
    said = [(f"{share.share:.1%}", text) for text, share in shares if share.total]
    if first.exact.total:
        said.append((f"{first.tokens:.1f}", "tokens an answer"))
    if first.alone_seconds is not None:
        said.append((f"{first.alone_seconds * 1000:.0f} ms", "an answer alone, median"))
    return "".join(
        f'<div class="fact"><b>{escape(number)}</b><span>{escape(text)}</span></div>'
        for number, text in said
    )


def _sides(found: Comparison) -> str:
    likelihood = found.first.evaluation.by_perplexity
    files = [*found.first.evaluation.by_file]
    columns = ["", "", "perplexity" if likelihood else "right"]
    columns += files if len(files) > 1 else []
    columns += ["better", "worse", "chance", *([] if likelihood else ["tokens", "alone"])]
    head = "".join(f"<th>{escape(title)}</th>" for title in columns)
    rows = "".join(_side(side, found.first, number == 0) for number, side in enumerate(found.sides))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{rows}</table></div>'


def _side(side: Side, first: Side, is_first: bool) -> str:
    found, paired = side.evaluation, side.against
    likelihood, files = first.evaluation.by_perplexity, found.by_file
    cells = [perplexity_text(found.perplexity) if likelihood else f"{found.score:.1%}"]
    cells += [f"{share.share:.1%}" for share in files.values()] if len(files) > 1 else []
    if paired is None:
        cells += ["", "", ""]
    else:
        cells += [str(paired.better), str(paired.worse), p_text(paired.p)]
    if not likelihood:
        alone = found.alone_seconds
        cells += [f"{found.tokens:.1f}", "" if alone is None else f"{alone * 1000:.0f} ms"]
    picture = "" if likelihood else bar(found.exact)
    values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return (
        f'<tr{" class=first" * is_first}><td class="name">{escape(side.name)}</td>'
        f'<td class="wide">{picture}</td>{values}</tr>'
    )


def _sweep(found: Comparison) -> str:
    """The figure over the scales; of several files a curve for each."""
    if found.first.evaluation.by_perplexity:
        points = [_likely(side) for side in found.sweep]
        ends = (min(p.value for p in points), max(p.value for p in points))
        ticks = [(value, perplexity_text(10**value)) for value in ends]
        return f'<p class="soft">Perplexity at each scale.</p>{curve({"": points}, ticks)}'
    files = [*found.first.evaluation.by_file]
    lines = {
        name: [_right(side, name) for side in found.sweep]
        for name in (files if len(files) > 1 else [""])
    }
    ticks = [(n / 4, f"{n * 25}%") for n in range(5)]
    return f'<p class="soft">Share of right answers at each scale.</p>{curve(lines, ticks)}'


def _right(side: Side, file: str) -> Point:
    scale, evaluation = side.contestant.scale or 0.0, side.evaluation
    share = evaluation.by_file[file] if file else evaluation.exact
    value = share.share if file else evaluation.score
    return Point(scale, value, share.low, share.high, f"{scale:g}: {value:.1%}")


def _likely(side: Side) -> Point:
    scale = side.contestant.scale or 0.0
    value = math.log10(side.evaluation.perplexity or 1.0)
    return Point(scale, value, value, value, f"{scale:g}: {side.evaluation.headline}")


def _called(first: Evaluation) -> str:
    called = first.tools_called
    if not called:
        return ""
    if len({name for pair in called for name in pair}) > MAX_TOOLS:
        rows = "".join(
            f'<tr><td class="name">{escape(wanted)}</td><td>{escape(name)}</td><td>{n}</td></tr>'
            for (wanted, name), n in first.confusions.most_common(MAX_TOOLS)
        )
        head = "<thead><tr><th>wanted</th><th>called</th><th></th></tr></thead>"
        body = f'<div class="scroll"><table>{head}{rows}</table></div>'
        return _section("What was called in whose place", body) if rows else ""
    return _section("What was called", matrix(called))


def _phrasings(first: Evaluation) -> str:
    shares = list(first.by_phrasing.items())
    if len(shares) < 2:
        return ""
    body = bars("phrasing", dict(shares[:OPEN_PHRASINGS]))
    if rest := shares[OPEN_PHRASINGS:]:
        more = bars("phrasing", dict(rest))
        body += f"<details><summary>{len(rest)} more</summary>{more}</details>"
    return _section("By phrasing, the worst first", body)


def _wrong(first: Evaluation) -> str:
    wrong = [each for each in first.outcomes if each.score is not None and not each.exact]
    if not wrong:
        return ""
    shown, more = wrong[:OPEN_ANSWERS], wrong[OPEN_ANSWERS:MAX_ANSWERS]
    body = "".join(map(_answer, shown))
    if more:
        left = len(wrong) - len(shown) - len(more)
        note = f"<p class=soft>and {left} more, in the JSON report</p>" * bool(left)
        inner = "".join(map(_answer, more))
        body += f"<details><summary>{len(more)} more</summary>{inner}{note}</details>"
    return _section(f"Wrong answers ({len(wrong)})", body)


def _answer(each: Outcome) -> str:
    rows = [("wanted", "good", each.wanted), ("got", "bad", each.answered)]
    rows += [("", "soft", fault) for fault in each.invalid[:3]]
    said = "".join(
        f'<dt>{name}</dt><dd class="{kind}"><code>{escape(_cut(text))}</code></dd>'
        for name, kind, text in rows
    )
    return (
        f'<div class="answer"><span class="soft">{escape(each.example.place)}</span> '
        f"{escape(_cut(each.request))}<dl>{said}</dl></div>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _footer(found: Comparison) -> str:
    first = found.first.evaluation
    words = "" if first.scored == "text" else f" Answers in words are judged by {first.scored}."
    said = (
        "An answer is right if all its calls are: the wanted tools with the wanted arguments, "
        "compared by the types of their schemas, calls of one turn in any order. Whiskers are "
        "Wilson's 95% intervals; chance is the exact McNemar test: how likely sides that are "
        "equally good would differ by as much."
    )
    return f"<p>{escape(said + words)} Made by lorakit {escape(lorakit_version())}.</p>"
