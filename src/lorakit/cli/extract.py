"""lorakit extract: an adapter out of a full fine-tune."""

from __future__ import annotations

from typing import Annotated

from lorakit.algebra.extract import extract
from lorakit.cli.references import BaseArgument, JsonOption, open_base
from lorakit.cli.residuals import EnergyOption, OutputOption, RankOption, finish
from lorakit.cli.signature import argument, option


def command(
    base: BaseArgument,
    tuned: Annotated[str, argument(metavar="TUNED", help="Its fine-tune, a folder too.")],
    output: OutputOption,
    rank: RankOption = None,
    energy: EnergyOption = None,
    modules: Annotated[
        list[str] | None,
        option("--module", "-m", help="Only these, such as q_proj; may be repeated."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the adapter that takes a base to its fine-tune, to a rank or an energy."""
    adapter, report = extract(open_base(base), open_base(tuned), rank, energy, modules)
    finish(adapter, report, output, json=json)
