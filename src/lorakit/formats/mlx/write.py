"""Write an Adapter as an mlx-lm folder, exactly, or say what does not fit (see express.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array
from lorakit.architectures import Decoder
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import new_folder, write_synced
from lorakit.files.safetensors import write_safetensors
from lorakit.formats.express import Fault, require_expressible
from lorakit.formats.folding import made_uniform
from lorakit.formats.mlx.config import CONFIG
from lorakit.formats.mlx.express import cannot_express
from lorakit.formats.mlx.names import LAYER, native
from lorakit.formats.mlx.read import WEIGHTS, read_mlx
from lorakit.formats.peft.read import FINGERPRINT
from lorakit.formats.readback import as_dtype, require_same


def write_mlx(
    adapter: Adapter,
    folder: Path,
    *,
    decoder: Decoder | None = None,
    dtype: npt.DTypeLike | None = None,
    along: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Write an adapter so that mlx-lm computes the same; all of the folder or nothing.

    Scales that differ between modules are folded into B in float32; ranks are padded with zeros.
    Equal arguments give equal bytes. What was written is read back before it is put in place.

    decoder: the base; with it, or where the adapter's config says that it is of all layers, modules
    are named as MLX for Swift reads them, too (see `_named`); an embedding alone needs it. dtype:
    what to store A and B as; None keeps each tensor's own; magnitudes stay float32, as mlx-lm keeps
    them. along: names and contents of files that come beside it.

    Raises UnsupportedError listing every part that MLX cannot express, FormatError for values that
    the dtype cannot hold, ParameterError for a folder that is in use, WriteError for a full disk.
    """
    faults = [*cannot_express(adapter, decoder), *_doubles(adapter, dtype)]
    require_expressible(faults, "MLX")
    adapter = _prepared(adapter, dtype)
    config = json.dumps(_config(adapter, decoder), indent=4, allow_nan=False).encode() + b"\n"
    print_ = adapter.precondition.fingerprint
    metadata = {"format": "mlx"} | ({FINGERPRINT: print_} if print_ else {})
    tensors = _tensors(adapter)
    try:
        with new_folder(folder) as temporary:
            write_synced(
                temporary / WEIGHTS, lambda file: write_safetensors(file, tensors, metadata)
            )
            write_synced(temporary / CONFIG, config)
            for name, content in along:
                write_synced(temporary / name, content)
            require_same(adapter, read_mlx(temporary, decoder), "MLX")
    except FileExistsError as error:
        raise ParameterError(str(error), hint="choose a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error


def _doubles(adapter: Adapter, dtype: npt.DTypeLike | None) -> list[Fault]:
    if dtype is not None:
        return []
    names = [d.module for d in adapter.deltas if np.float64 in (d.a.dtype, d.b.dtype)]
    return [Fault(item=name, reason="float64, which MLX lacks; give a dtype") for name in names]


def _prepared(adapter: Adapter, dtype: npt.DTypeLike | None) -> Adapter:
    """The adapter as the file holds it: one rank, one scale, stored dtypes."""
    deltas = made_uniform(adapter).deltas
    magnitudes = as_dtype(Adapter(magnitudes=adapter.magnitudes), np.float32).magnitudes
    stored = as_dtype(replace(adapter, deltas=deltas, magnitudes=()), dtype)
    return replace(stored, magnitudes=magnitudes)


def _tensors(adapter: Adapter) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for d in adapter.deltas:
        name, experts = native(d.module), d.a.ndim == 3
        tensors[f"{name}.lora_a"] = d.a if experts else d.a.T
        tensors[f"{name}.lora_b"] = d.b if experts else d.b.T
    return tensors | {f"{native(m.module)}.m": m.value for m in adapter.magnitudes}


def _config(adapter: Adapter, decoder: Decoder | None) -> dict[str, Any]:
    layers, keys = _named(adapter, decoder)
    return {
        "fine_tune_type": "dora" if adapter.magnitudes else "lora",
        "model": adapter.precondition.name,
        "num_layers": layers,
        "lora_parameters": {
            "rank": adapter.max_rank,
            "scale": adapter.deltas[0].scale,
            "dropout": 0.0,
            "keys": keys,
        },
    }


def _named(adapter: Adapter, decoder: Decoder | None) -> tuple[int, list[str]]:
    """`num_layers` and `keys`: names within a block, where the last layers have the same ones.

    Else full names anywhere, and -1: only mlx-lm reads those. mlx-swift-lm takes the keys of the
    last `num_layers` blocks, ends the process over a negative number and refuses tensors beyond.
    """
    names = sorted(native(module) for module in adapter.modules)
    blocks: dict[int, set[str]] = {}
    for found in map(LAYER.fullmatch, names):
        if found is None:
            return -1, names
        blocks.setdefault(int(found[1]), set()).add(found[2])
    first, held = min(blocks, default=0), max(blocks, default=-1) + 1
    layers = _layers(adapter, held) if decoder is None else len(decoder.layers)
    same = all(keys == blocks[first] for keys in blocks.values())
    if not same or sorted(blocks) != list(range(first, layers)):
        return -1, names
    return layers - first, sorted(blocks[first])


def _layers(adapter: Adapter, held: int) -> int:
    """How many blocks the base has, where the adapter's own config says that it is of all; else 0.

    held: the blocks from the first to the last one that the file has.
    """
    peft = adapter.metadata.get("peft")
    if not isinstance(peft, Mapping) or peft.get("layers_to_transform") is not None:
        return 0
    names = peft.get("target_modules")
    whole = isinstance(names, list) and all(isinstance(n, str) and "." not in n for n in names)
    return held if whole and not peft.get("exclude_modules") else 0
