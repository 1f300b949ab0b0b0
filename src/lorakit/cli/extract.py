"""lorakit extract: an adapter out of a full fine-tune."""

from __future__ import annotations

from typing import Annotated

from lorakit.algebra.extract import extract
from lorakit.cli.outputs import OverwriteOption, require_free
from lorakit.cli.progress import Percent
from lorakit.cli.references import BaseArgument, JsonOption, PrivateOption, open_base
from lorakit.cli.residuals import (
    EnergyOption,
    OutputOption,
    RankOption,
    UniformOption,
    finish,
)
from lorakit.cli.signature import argument, option
from lorakit.errors import ParameterError


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
    exact: Annotated[
        bool,
        option(
            "--exact", help="A full SVD; without it, one within 1% of it in a tenth of the time."
        ),
    ] = False,
    uniform: UniformOption = False,
    overwrite: OverwriteOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Find the adapter that takes a base to its fine-tune, to a rank or an energy."""
    require_free(output, "adapter", overwrite=overwrite, inputs=[base, tuned])
    one, other = (open_base(each, allow_private=allow_private) for each in (base, tuned))
    with Percent(of="{} tensors".format) as progress:
        adapter, report = extract(one, other, rank, energy, modules, exact=exact, progress=progress)
    if not adapter.deltas and not adapter.replacements:
        raise ParameterError(
            f"{tuned} has the weights of {base}: there is nothing to extract"
            if not report.skipped
            else "nothing that --module names has changed",
            items=report.skipped,
            hint="--module may name what did change"
            if report.skipped
            else "the original base goes first, then what was tuned from it",
        )
    finish(adapter, report, output, json=json, overwrite=overwrite, uniform=uniform)
