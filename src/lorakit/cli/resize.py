"""lorakit resize: an adapter at another rank."""

from __future__ import annotations

from lorakit.algebra.resize import resize
from lorakit.cli.outputs import OverwriteOption, require_free
from lorakit.cli.references import (
    AdapterArgument,
    JsonOption,
    PickleOption,
    PrivateOption,
    read_reference,
)
from lorakit.cli.residuals import (
    EnergyOption,
    OutputOption,
    RankOption,
    UniformOption,
    finish,
)


def command(
    adapter: AdapterArgument,
    output: OutputOption,
    rank: RankOption = None,
    energy: EnergyOption = None,
    uniform: UniformOption = False,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Cut an adapter to a rank or an energy, as well as any of that rank can be.

    What each rank would keep: lorakit inspect ADAPTER --ranks.
    """
    require_free(output, "adapter", overwrite=overwrite, inputs=[adapter])
    loaded = read_reference(adapter, allow_pickle=allow_pickle, allow_private=allow_private)
    resized, report = resize(loaded, rank, energy)
    finish(resized, report, output, json=json, overwrite=overwrite, uniform=uniform)
