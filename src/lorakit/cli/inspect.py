"""lorakit inspect: what is in an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lorakit.cli.output import console, print_json, size
from lorakit.cli.references import JsonOption
from lorakit.formats import read_adapter
from lorakit.inspect import Report, inspect


def command(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter.")],
    structure: Annotated[
        bool, typer.Option("--structure", help="Names and shapes alone; reads no values.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show format, ranks, effective scales, modules, sizes and norms of an adapter."""
    report = inspect(read_adapter(Path(adapter)), values=not structure)
    if json:
        print_json(report.to_dict())
        return
    for name, value in _summary(report).items():
        console.print(Text.assemble((f"{name:<12}", "bold"), str(value)))
    console.print(_modules(report))


def _summary(report: Report) -> dict[str, Any]:
    rows = {
        "format": report.format,
        "base": report.base,
        "features": ", ".join(report.features),
        "modules": len(report.modules),
        "ranks": _counts(report.ranks),
        "scales": _counts(report.scales),
        "parameters": f"{report.parameters:,} ({', '.join(report.dtypes)})",
        "size": size(report.nbytes),
        "replaced": ", ".join(report.replacements),
        "invocation": ", ".join(map(str, report.invocation_tokens)),
        "norm": None if report.norm is None else f"{report.norm:.4g}",
        "digest": report.digest,
    }
    return {name: value for name, value in rows.items() if value not in (None, "")}


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{value:g} in {count} modules" for value, count in counts.items())


def _modules(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("module", "site", "rank", "in", "out", "scale", "norm"):
        table.add_column(title, justify="left" if title in ("module", "site") else "right")
    for m in report.modules:
        norm = "" if m.norm is None else f"{m.norm:.4g}"
        table.add_row(
            m.module, m.site, str(m.rank), str(m.in_features), str(m.out_features), f"{m.scale:g}",
            norm,
        )  # fmt: skip
    return table
