"""lorakit resize: an adapter at another rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.algebra.resize import resize
from lorakit.cli.references import JsonOption, PickleOption
from lorakit.cli.residuals import EnergyOption, OutputOption, RankOption, finish
from lorakit.formats import read_adapter


def command(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter.")],
    output: OutputOption,
    rank: RankOption = None,
    energy: EnergyOption = None,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Cut an adapter to a rank or an energy, as well as any of that rank can be."""
    loaded = read_adapter(Path(adapter), allow_pickle=allow_pickle)
    resized, report = resize(loaded, rank, energy)
    finish(resized, report, output, json=json)
