"""What combine, resize and extract share: their options, and the table of residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from lorakit.adapter import Adapter
from lorakit.algebra.report import ResidualReport
from lorakit.cli.output import print_json, print_table, say, size
from lorakit.cli.outputs import written
from lorakit.cli.signature import option
from lorakit.formats.peft import patterns_note, write_peft

OutputOption = Annotated[
    Path, option("--output", "-o", metavar="OUT", help="A new folder, in PEFT's format.")
]
RankOption = Annotated[int | None, option(help="The rank to keep at most.")]
EnergyOption = Annotated[
    float | None,
    option(help="The share of the squared singular values to keep, such as 0.99."),
]
UniformOption = Annotated[
    bool,
    option(
        "--uniform", help="One rank and one alpha for all modules, for readers without patterns."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One of the adapters that were combined: what it was called, at which weight it is in it, and
    its norm there over that of the base's weights, where a base was given."""

    reference: str
    weight: float
    relative: float | None


def finish(
    adapter: Adapter,
    report: ResidualReport,
    output: Path,
    *,
    json: bool,
    overwrite: bool,
    uniform: bool = False,
    inputs: Sequence[Input] = (),
) -> None:
    """Write the adapter and show what it cost. inputs: those that `report.strengths` is of."""
    with written(output, "adapter", overwrite=overwrite) as place:
        write_peft(adapter, place, uniform=uniform)
    patterns = "" if uniform else patterns_note(adapter)
    if json:
        notes = {"notes": [*report.notes, patterns]} if patterns else {}
        named = {"inputs": [asdict(each) for each in inputs]} if inputs else {}
        whole = {"output": str(output), "bytes": adapter.nbytes, **report.to_dict()}
        print_json(whole | notes | named)
        return
    rows = [
        (
            m.module, m.site, str(m.rank_before), str(m.rank_after), f"{m.norm:.4g}",
            f"{m.residual:.2g}",
        )
        for m in report.modules
    ]  # fmt: skip
    titles = ("module", "site", "rank before", "rank after", "norm", "residual")
    print_table(titles, rows, left=("module", "site"))
    if inputs:
        say()
        _show(inputs, report)
    for name in report.skipped:
        say((f"changed, but not asked for: {name}", "yellow"))
    for note in (*report.notes, *[patterns] * bool(patterns)):
        say((f"note: {note}", "yellow"))
    said = f"{size(adapter.nbytes)}, relative residual {report.residual:.3g}"
    say(f"{output}: {said}")


def _show(inputs: Sequence[Input], report: ResidualReport) -> None:
    """Each adapter's weight, norm, share of the sum, and strength beside the base."""
    titles = ["adapter", "weight", "norm", "of the sum", "of the base"]
    rows = [
        [
            each.reference, f"{each.weight:g}", f"{norm:.4g}", f"{share:.1%}",
            "" if each.relative is None else f"{each.relative:.2%}",
        ]
        for each, norm, share in zip(inputs, report.strengths, report.shares, strict=True)
    ]  # fmt: skip
    if all(each.relative is None for each in inputs):
        titles, rows = titles[:-1], [row[:-1] for row in rows]
    print_table(titles, rows, left=titles[:1])
