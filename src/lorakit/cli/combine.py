"""lorakit combine: several adapters as one."""

from __future__ import annotations

from math import hypot
from typing import Annotated

from lorakit.adapter import Adapter, at_scale
from lorakit.algebra.combine import Method, combine
from lorakit.base.folder import Base
from lorakit.check import without_unchanged
from lorakit.cli.outputs import OverwriteOption, require_free
from lorakit.cli.references import (
    JsonOption,
    PickleOption,
    PrivateOption,
    open_base,
    read_reference,
    scaled,
    with_weights,
)
from lorakit.cli.residuals import (
    EnergyOption,
    Input,
    OutputOption,
    RankOption,
    UniformOption,
    finish,
)
from lorakit.cli.signature import argument, option
from lorakit.formats import require_known
from lorakit.inspect.relative import weight_norms


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
        option(
            "--base",
            "-b",
            help="Take out replaced layers that hold what this base has, and say how strong the "
            "adapters are beside its weights.",
        ),
    ] = None,
    uniform: UniformOption = False,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Add adapters up, at their weights, into one: exactly, or to a rank."""
    require_free(
        output, "adapter", overwrite=overwrite, inputs=[scaled(each).path for each in adapters]
    )
    model = None if base is None else open_base(base, allow_private=allow_private)
    weighted: list[tuple[Adapter, float]] = []
    names: dict[Adapter, str] = {}
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
        adapter = adapter if model is None else without_unchanged(adapter, model)
        weighted.append((adapter, weight))
        names.setdefault(adapter, said.path)
    combined, report = combine(
        weighted, method, rank=rank, energy=energy, density=density, seed=seed
    )
    readable = None if model is None else with_weights(model)
    inputs = [
        Input(
            reference=name,
            weight=sum(weight for each, weight in weighted if each == adapter),
            relative=None if readable is None else _relative(adapter, strength, readable),
        )
        for (adapter, name), strength in zip(names.items(), report.strengths, strict=True)
    ]
    finish(combined, report, output, json=json, overwrite=overwrite, uniform=uniform, inputs=inputs)


def _relative(adapter: Adapter, strength: float, base: Base) -> float | None:
    """Its norm over that of the weights that it changes; None where the base lacks some."""
    weights = [weight for weight in weight_norms(adapter.deltas, base) if weight is not None]
    return strength / hypot(*weights) if len(weights) == len(adapter.deltas) > 0 else None
