"""Which tensors of a folder's files hold a model's modules, and whether all of them are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.adapter import Array
from lorakit.architectures import (
    HEAD,
    Decoder,
    Spelling,
    Stored,
    in_files,
    spelling_of,
    spellings,
)
from lorakit.errors import BaseModelError

FLOATS = ("float64", "float32", "float16", "bfloat16")


def spelling_in(
    decoder: Decoder, given: Mapping[str, Any], tensors: Mapping[str, Array]
) -> Spelling:
    """How the files begin the names of tensors.

    Those of a bare model, without a head, leave a step out; those of one that also sees add one.
    """
    root, table = decoder.architecture.layout.root, f"{decoder.embedding}.weight"
    if table not in tensors and table.removeprefix(root) in tensors:
        return ((root, ""),)
    head = None if decoder.tied else f"{HEAD}.weight"
    return spelling_of(given, table, head, tensors.keys())


def places_of(
    decoder: Decoder, tensors: Mapping[str, Array], spelling: Spelling
) -> dict[str, tuple[Stored, ...]]:
    """Of each module, the spelling that the files hold; where none is whole, the nearest."""
    table = {}
    for module, ways in spellings(decoder).items():
        named = ways if not spelling else [
            tuple(replace(part, name=in_files(part.name, spelling)) for part in way)
            for way in ways
        ]  # fmt: skip
        table[module] = named[0] if len(named) == 1 else max(
            named, key=lambda way: sum(part.name in tensors for part in way) / len(way)
        )  # fmt: skip
    return table


def expected_in(
    decoder: Decoder, stored: Mapping[str, tuple[Stored, ...]], spelling: Spelling
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the files must hold, in their own spelling."""
    table = decoder.parameters()
    singles: dict[str, tuple[int, ...]] = {}
    for module, shape in decoder.modules().items():
        if shape.experts is not None and stored[module][0].expert is not None:
            size = (shape.out_features, shape.in_features)
            singles |= {part.name: size for part in stored[module]}
            table.pop(decoder.fused(module) or "", None)
    return {in_files(name, spelling): shape for name, shape in table.items()} | singles


def require_whole(
    folder: Path, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Array]
) -> None:
    """Raise BaseModelError with every tensor that is missing or of another shape or kind."""
    faults = []
    for name, shape in expected.items():
        if name not in tensors:
            faults.append(f"{name}: missing, expected {list(shape)}")
        elif tensors[name].shape != shape:
            faults.append(f"{name}: expected {list(shape)}, found {list(tensors[name].shape)}")
        elif tensors[name].dtype.name not in FLOATS:
            faults.append(f"{name}: expected floating point, found {tensors[name].dtype.name}")
    if faults:
        shown = faults[:20] + ([f"and {len(faults) - 20} more"] if len(faults) > 20 else [])
        raise BaseModelError(
            f"the weights in {folder} do not match its config.json",
            items=shown,
            hint="the folder may be incomplete or hold the config of another model",
        )
