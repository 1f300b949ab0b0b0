"""lorakit combine: several adapters as one."""

from __future__ import annotations

from math import hypot
from typing import Annotated

from lorakit.adapter import Adapter, at_scale
from lorakit.algebra.combine import combine
from lorakit.algebra.peft_words import AnyMethod, in_our_words
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
from lorakit.cli.usage import require_used
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
        AnyMethod,
        option(
            metavar="METHOD",
            help="concatenate (PEFT's cat, linear) is exact; svd, ties, dare and magnitude need a "
            "rank or an energy.",
        ),
    ] = "concatenate",
    rank: RankOption = None,
    energy: EnergyOption = None,
    density: Annotated[
        float | None,
        option(help="The share of entries that ties, dare and magnitude keep [default: 0.5]."),
    ] = None,
    seed: Annotated[int | None, option(help="For dare's choice [default: 0].")] = None,
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
    ours, _ = in_our_words(method)
    require_used(
        {"--density": (density, ours in ("ties", "dare", "magnitude")),
         "--seed": (seed, ours == "dare")},
        f"--method {method}",
    )  # fmt: skip
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
        weighted,
        method,
        rank=rank,
        energy=energy,
        density=0.5 if density is None else density,
        seed=seed or 0,
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
