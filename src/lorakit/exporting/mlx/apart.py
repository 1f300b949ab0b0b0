"""An adapter beside an MLX folder: mlx-lm's own, in a folder of its own, at a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lorakit.adapter import Adapter
from lorakit.algebra.combine import combine
from lorakit.base.folder import Base
from lorakit.exporting.mlx.write import OnBytes, mlx_model_check, write_mlx
from lorakit.formats import mlx
from lorakit.formats.express import require_expressible

ADAPTERS = "adapters"


def write_apart(
    base: Base,
    adapters: Sequence[tuple[Adapter, float]],
    folder: Path,
    form: str,
    *,
    on_bytes: OnBytes | None = None,
) -> tuple[Path, ...]:
    """Write the base as `write_mlx` does, and the adapters beside it as one, in `adapters/`.

    mlx-lm applies it: `load(folder, adapter_path=folder / "adapters")`. Returns the weight files of
    both. Raises as `one_adapter` and `write_mlx` do.
    """
    adapter = one_adapter(base, adapters)
    mlx_model_check(base, form)
    doubles = any(array.dtype == np.float64 for _, array in adapter.arrays())
    dtype = np.float32 if doubles else None  # MLX's adapters have no wider one
    mlx.write_mlx(adapter, folder / ADAPTERS, decoder=base.decoder, dtype=dtype)
    files = write_mlx(base, folder, form, on_bytes=on_bytes)
    return (*files, folder / ADAPTERS / mlx.WEIGHTS)


def one_adapter(base: Base, adapters: Sequence[tuple[Adapter, float]]) -> Adapter:
    """All adapters at their scales as one that MLX can say; several have their ranks side by side.

    Raises UnsupportedError listing what cannot be summed, or what MLX has no words for.
    """
    if len(adapters) == 1:
        ((adapter, scale),) = adapters
        deltas = tuple(replace(delta, scale=delta.scale * scale) for delta in adapter.deltas)
        found = replace(adapter, deltas=deltas)
    else:
        found, _ = combine(adapters)
    require_expressible(mlx.cannot_express(found, base.decoder), "MLX")
    return found
