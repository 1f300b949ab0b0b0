"""lorakit combine: several adapters as one."""

from __future__ import annotations

from typing import Annotated

from lorakit.adapter import at_scale
from lorakit.algebra.combine import Method, combine
from lorakit.check import without_unchanged
from lorakit.cli.references import (
    JsonOption,
    PickleOption,
    PrivateOption,
    open_base,
    read_reference,
    scaled,
)
from lorakit.cli.residuals import (
    EnergyOption,
    OutputOption,
    RankOption,
    UniformOption,
    finish,
    require_new,
)
from lorakit.cli.signature import argument, option
from lorakit.formats import require_known


def command(
    adapters: Annotated[
        list[str],
        argument(
            metavar="REF[:WEIGHT]",
            help="Adapters; a weight may be < 0. :=SCALE replaces alpha / r in its place.",
        ),
    ],
    output: OutputOption,
    method: Annotated[
        Method, option(help="concatenate is exact; the others need a rank or an energy.")
    ] = "concatenate",
    rank: RankOption = None,
    energy: EnergyOption = None,
    density: Annotated[
        float, option(help="The share of entries that ties, dare and magnitude keep.")
    ] = 0.5,
    seed: Annotated[int, option(help="For dare's choice.")] = 0,
    base: Annotated[
        str | None,
        option("--base", "-b", help="Take out replaced layers that hold what this base has."),
    ] = None,
    uniform: UniformOption = False,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Add adapters up, at their weights, into one: exactly, or to a rank."""
    require_new(output)
    model = None if base is None else open_base(base, allow_private=allow_private)
    weighted = []
    decoder = None if model is None else model.decoder
    require_known(decoder, "what is combined is written as PEFT")
    for reference in adapters:
        said = scaled(reference)
        weight = 1.0 if said.scale is None else said.scale
        adapter = read_reference(
            said.path, decoder, allow_pickle=allow_pickle, allow_private=allow_private
        )
        if said.absolute is not None:
            adapter = at_scale(adapter, said.absolute)
        weighted.append((adapter if model is None else without_unchanged(adapter, model), weight))
    combined, report = combine(
        weighted, method, rank=rank, energy=energy, density=density, seed=seed
    )
    finish(combined, report, output, json=json, uniform=uniform)
