"""An MLX folder back as a Hugging Face folder of float32: the values that its files hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lorakit.adapter import Array
from lorakit.architectures import Decoder, describe
from lorakit.base.folder import INDEX, WEIGHTS, read_json
from lorakit.errors import FormatError
from lorakit.exporting.mlx.affine import dequantise
from lorakit.exporting.mlx.weights import Weight, weights
from lorakit.exporting.mlx.write import BLOCK, CONFIG
from lorakit.files.atomic import write_synced
from lorakit.files.safetensors import layout, open_safetensors
from lorakit.merge.files import Target
from lorakit.merge.folder import companions_in

FLOAT = np.dtype(np.float32)
AWAY = ("quantization", "quantization_config")


def dequantised_folder(folder: Path, place: Path) -> Path:
    """Write the model of a folder of `write_mlx` as float32 into a new folder; returns it.

    It has the values that mlx-lm computes with, under the names of transformers. Adapters beside
    the model stay where they are. Raises SourceError, FormatError, BaseModelError and OSError.
    """
    config = {key: value for key, value in read_json(folder / CONFIG).items() if key not in AWAY}
    decoder = describe(config)
    held = _tensors(folder)
    place.mkdir()
    _write(decoder, held, place / WEIGHTS)
    config |= dict.fromkeys({"dtype", "torch_dtype"} & config.keys() or {"dtype"}, FLOAT.name)
    write_synced(place / CONFIG, json.dumps(config, indent=2).encode())
    for name, content in companions_in(folder):
        write_synced(place / name, content)
    return place


def _tensors(folder: Path) -> dict[str, Array]:
    names = set(read_json(folder / INDEX)["weight_map"].values())
    files = [open_safetensors(folder / name) for name in sorted(names)]
    return {name: tensor for file in files for name, tensor in file.tensors.items()}


def _write(decoder: Decoder, held: Mapping[str, Array], path: Path) -> None:
    table = weights(decoder)
    missing = [name for w in table if (name := f"{w.name}.{w.kind}") not in held]
    if missing:
        raise FormatError("the MLX folder lacks tensors of its model", items=missing[:20])
    shapes = {name: (FLOAT, _shape(weight)) for weight in table for name in weight.stored}
    header, places = layout(shapes, {"format": "pt"})
    size = len(header) + sum(int(np.prod(shape)) * FLOAT.itemsize for _, shape in shapes.values())
    with Target(path, size) as target:
        target.write(memoryview(header), 0)
        for weight in table:
            for number, name in enumerate(weight.stored):
                at = places[name]
                for block in _blocks(weight, held, number):
                    target.write(block.reshape(-1).view(np.uint8).data, at)
                    at += block.nbytes


def _shape(weight: Weight) -> tuple[int, ...]:
    """Of one matrix, as a checkpoint has it."""
    one = weight.shape[1:] if len(weight.shape) == 3 else weight.shape
    return one[::-1] if weight.turned else one


def _blocks(weight: Weight, held: Mapping[str, Array], number: int) -> Iterator[Array]:
    """The values of a checkpoint's tensor, some rows at a time; one that is turned comes whole."""
    read = _reader(weight, held, number)
    count = weight.rows // len(weight.stored)
    step = count if weight.turned else max(1, BLOCK // weight.columns)
    for low in range(0, count, step):
        values = read(slice(low, low + step))
        yield np.ascontiguousarray(values.T if weight.turned else values, FLOAT)


def _reader(weight: Weight, held: Mapping[str, Array], number: int) -> Callable[[slice], Array]:
    parts = [held[f"{weight.name}.{weight.kind}"]]
    if f"{weight.name}.scales" in held and weight.module is not None:
        parts += [held[f"{weight.name}.{part}"] for part in ("scales", "biases")]
    words, *affine = [part[number] if len(weight.shape) == 3 else part for part in parts]
    if not affine:
        return lambda rows: words[rows]
    scales, biases = affine
    bits = words.shape[-1] * 32 // weight.columns
    return lambda rows: dequantise(words[rows], scales[rows], biases[rows], bits)
