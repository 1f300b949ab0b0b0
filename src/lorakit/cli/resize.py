"""lorakit resize: an adapter at another rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.algebra.resize import resize
from lorakit.cli.references import JsonOption
from lorakit.cli.residuals import EnergyOption, OutputOption, RankOption, finish
from lorakit.formats import read_adapter


def command(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter.")],
    output: OutputOption,
    rank: RankOption = None,
    energy: EnergyOption = None,
    json: JsonOption = False,
) -> None:
    """Cut an adapter to a rank or an energy, as well as any of that rank can be."""
    resized, report = resize(read_adapter(Path(adapter)), rank, energy)
    finish(resized, report, output, json=json)
