"""The tables of lorakit inspect: the summary, modules, spectra, ranks, overlap."""

from __future__ import annotations

import json as json_
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorakit.cli.bars import bar
from lorakit.cli.output import console, plain, print_table, say, say_folded, size
from lorakit.inspect.overlap import ModuleOverlap, Overlap
from lorakit.inspect.ranks import RankCurve
from lorakit.inspect.report import ModuleReport, Report

if TYPE_CHECKING:
    from lorakit.adapter import Reading

METADATA = 400  # characters of it that are shown
LABEL = 12  # columns of the names before the rows
USUAL = 80  # columns; from so many on rows are not folded
ENERGIES = (0.9, 0.99, 0.999)
ROWS = 24  # ranks that are shown
NEAREST = 8  # modules of an overlap that are shown


def say_row(name: str, value: str, told: str = "") -> None:
    """A name, what it says, and what that means; on a terminal narrower than usual folded under
    itself."""
    width, lines = console().width, [value]
    narrow = sys.stdout.isatty() and width < USUAL
    if narrow:
        lines = _folded(value, width)
    beside = bool(told) and not (narrow and LABEL + len(f"{value}  {told}") > width)
    for number, part in enumerate(lines):
        meant = [("  " + told, "dim")] if beside else []
        say((f"{'' if number else name:<{LABEL}}", "bold"), part, *meant)
    for part in _folded(told, width) if told and not beside else ():
        say(" " * LABEL, (part, "dim"))


def _folded(text: str, width: int) -> list[str]:
    """The lines of a text right of a name."""
    from rich.text import Text

    room = max(width - LABEL - 1, 8)
    return [line.plain.rstrip() for line in Text(plain(text)).wrap(console(), room)]


def summary(report: Report) -> dict[str, Any]:
    """The lines above all tables; what is empty is left out."""
    rows = {
        "format": report.format,
        "base": report.base,
        "features": ", ".join(report.features),
        "modules": len(report.modules),
        "ranks": _counts(report.ranks),
        "scales": _counts(report.scales),
        "parameters": f"{report.parameters:,}",
        "stored as": ", ".join(f"{name} ({n:,})" for name, n in report.dtypes.items()),
        "size": size(report.nbytes),
        "replaced": ", ".join(report.replacements),
        "magnitudes": report.magnitudes or None,
        "invocation": ", ".join(map(str, report.invocation_tokens)),
        "norm": "not read (--values reads it)" if report.norm is None else f"{report.norm:.4g}",
        "strength": _strength(report.relative_norm),
        "digest": report.digest,
        **{f"as {name}": _express(faults) for name, faults in report.expressible.items()},
    }
    return {name: value for name, value in rows.items() if value not in (None, "")}


def reading_rows(reading: Reading) -> dict[str, str]:
    """What reading it found: names that were changed, what its config promises and it lacks."""
    names = [
        f"{before or '(nothing)'} -> {after or '(nothing)'}" for before, after in reading.renamed
    ]
    rows = {"renamed": ", ".join(names), "incomplete": "; ".join(reading.missing)}
    rows["notes"] = "; ".join(reading.notes)
    return {name: text for name, text in rows.items() if text}


def _strength(relative: float | None) -> str:
    said = _percent(relative)
    return f"{said} of the weights that it changes" if said else ""


def _express(faults: tuple[str, ...]) -> str:
    """ "exactly", or each reason once with how many parts it concerns."""
    reasons = Counter(fault.partition(": ")[2] or fault for fault in faults)
    said = [f"{reason} ({n} parts)" if n > 1 else reason for reason, n in reasons.items()]
    return f"no: {'; '.join(said)}" if said else "exactly"


def metadata(report: Report) -> str:
    """What the file says beside its tensors, in one line; all of it is in --json."""
    said = _said({k: v for k, v in report.to_dict()["metadata"].items() if k != "format"})
    text = json_.dumps(said, ensure_ascii=False) if said else ""
    return text if len(text) <= METADATA else f"{text[:METADATA]}... (all of it: --json)"


def _said(value: Any) -> Any:
    """Without the keys that say nothing: null, false and what is empty."""
    if not isinstance(value, dict):
        return value
    kept = {key: _said(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item or type(item) in (int, float)}


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{value:g} in {count} modules" for value, count in counts.items())


def show_modules(modules: tuple[ModuleReport, ...]) -> None:
    """A row for each module; its strength beside the base's weight where that is known."""
    relative = any(m.relative_norm is not None for m in modules)
    rows = [
        (
            _name(m), m.site, str(m.rank), str(m.in_features), str(m.out_features), f"{m.scale:g}",
            "" if m.norm is None else f"{m.norm:.4g}",
            *([_percent(m.relative_norm)] if relative else []),
        )
        for m in modules
    ]  # fmt: skip
    titles = ("module", "site", "rank", "in", "out", "scale", "norm", "of W")
    print_table(titles if relative else titles[:-1], rows, left=("module", "site"))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.3g}%"


def show_spectra(modules: tuple[ModuleReport, ...]) -> None:
    """Of experts the largest and least of all, the mean of the ranks, and the most for 99%."""
    rows = []
    for m in modules:
        found = m.spectra or ()
        values = [value for each in found for value in each.values] or [0.0]
        effective = sum(each.effective_rank for each in found) / max(len(found), 1)
        stable = sum(each.stable_rank for each in found) / max(len(found), 1)
        needed = str(max((each.rank99 for each in found), default=0))
        rows.append(
            (
                _name(m), f"{max(values):.3g}", f"{min(values):.3g}", f"{effective:.3g}",
                f"{stable:.3g}", needed,
            )
        )  # fmt: skip
    titles = ("singular values of", "largest", "least", "effective", "stable", "for 99%")
    print_table(titles, rows, left=titles[:1])


def _name(module: ModuleReport) -> str:
    return module.module + ("" if module.experts is None else f" ({module.experts} experts)")


def show_ranks(curve: RankCurve) -> None:
    """The residual at each rank as bars, and which rank keeps how much."""
    room = max(console().width - 4 - 8 - 8 - 9, 5)
    say((f"{'rank':>4} {'residual':>{room + 7}} {'kept':>7} {'size':>8}", "bold"))
    every = -(-len(curve.points) // ROWS)
    for point in curve.points[every - 1 :: every]:
        say(
            f"{point.rank:>4} ",
            *bar(point.residual, room, "blue"),
            f" {point.residual:>6.3f} {point.energy:>7.1%} {size(point.nbytes):>8}",
        )
    for energy in ENERGIES:
        point = curve.least(energy)
        worst = f"; {point.worst} loses most, {point.worst_residual:.2f}" * (point.residual > 0)
        say_folded(f"{energy:.4g} of the squares: rank {point.rank}, {size(point.nbytes)}{worst}")


def show_overlap(found: Overlap) -> None:
    """The whole in three lines, then the modules that have most to do with each other."""
    say_row("cosine", f"{found.cosine:+.3f}", _meaning(found.cosine))
    for name, value, chance in (
        ("inputs", found.inputs, found.chance_inputs),
        ("outputs", found.outputs, found.chance_outputs),
    ):
        say_row(name, f"{value:.3f}", f"{chance:.3f} by chance, 1 the same space")
    for name, modules in (("only first", found.only_first), ("only second", found.only_second)):
        if modules:
            say_row(name, f"{len(modules)} modules")
    for note in found.notes:
        say_folded(f"note: {note}", "yellow")
    say()
    ordered = sorted(found.modules, key=lambda m: -abs(m.cosine))
    rows = [_overlapping(m) for m in ordered[:NEAREST]]
    titles = ("module", "cosine", "inputs", "outputs", "first angles")
    print_table(titles, rows, left=("module",))
    if len(ordered) > NEAREST:
        say_folded(f"and {len(ordered) - NEAREST} more modules (all of it: --json)", "dim")


def _overlapping(module: ModuleOverlap) -> tuple[str, ...]:
    angles = " ".join(f"{angle:.0f}°" for angle in module.angles_outputs[:2])
    shares = (f"{value:.3f}" for value in (module.inputs, module.outputs))
    return (module.module, f"{module.cosine:+.3f}", *shares, angles)


def _meaning(cosine: float) -> str:
    """What a cosine says of a sum of the two."""
    if abs(cosine) < 0.1:
        return "nearly orthogonal: a sum keeps both"
    return "they add up: a sum is stronger" if cosine > 0 else "they work against each other"
