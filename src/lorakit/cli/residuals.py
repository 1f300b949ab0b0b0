"""What combine, resize and extract share: their options, and the table of residuals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from lorakit.adapter import Adapter
from lorakit.algebra.report import ResidualReport
from lorakit.cli.output import console, print_json, size
from lorakit.cli.signature import option
from lorakit.formats.peft import write_peft

OutputOption = Annotated[
    Path, option("--output", "-o", metavar="OUT", help="A new folder, in PEFT's format.")
]
RankOption = Annotated[int | None, option(help="The rank to keep at most.")]
EnergyOption = Annotated[
    float | None,
    option(help="The share of the squared singular values to keep, such as 0.99."),
]


def finish(adapter: Adapter, report: ResidualReport, output: Path, *, json: bool) -> None:
    """Write the adapter and show what it cost."""
    write_peft(adapter, output)
    if json:
        print_json({"output": str(output), "bytes": adapter.nbytes, **report.to_dict()})
        return
    console.print(_table(report))
    for name in report.skipped:
        console.print(f"changed, but not asked for: {name}", style="yellow")
    for note in report.notes:
        console.print(f"note: {note}", style="yellow")
    console.print(f"{output}: {size(adapter.nbytes)}, relative residual {report.residual:.3g}")


def _table(report: ResidualReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("module", "site", "rank before", "rank after", "norm", "residual"):
        table.add_column(title, justify="left" if title in ("module", "site") else "right")
    for m in report.modules:
        table.add_row(
            m.module, m.site, str(m.rank_before), str(m.rank_after), f"{m.norm:.4g}",
            f"{m.residual:.2g}",
        )  # fmt: skip
    return table
