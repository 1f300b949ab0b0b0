"""An MLX folder from a base: weights in blocks of rows, the config, and what comes along.

Nothing of mlx is needed. Memory is a few blocks; of what an adapter changes, one whole tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.base.folder import INDEX, WEIGHTS, Base
from lorakit.errors import UnsupportedError
from lorakit.exporting.mlx.affine import GROUP, quantise
from lorakit.exporting.mlx.weights import (
    QUANTISED,
    ROUTER_BITS,
    Tensors,
    Weight,
    dtype_of,
    matrices,
    weights,
)
from lorakit.files.atomic import write_synced
from lorakit.files.safetensors import layout
from lorakit.formats.mlx.base_config import config_faults, config_notes, mlx_config
from lorakit.merge import companions
from lorakit.merge.files import Target
from lorakit.merge.merge import require_finite
from lorakit.merge.stream import THREADS, fault

CONFIG = "config.json"
METADATA = {"format": "mlx"}
LARGEST = 5 << 30  # bytes of a file, as mlx-lm has it
BLOCK = 1 << 18  # values worked on at a time
OnBytes = Callable[[int], None]  # written so far


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A weight as the folder holds it."""

    weight: Weight
    bits: int | None
    dtype: np.dtype[np.generic]

    @property
    def tensors(self) -> Tensors:
        return self.weight.tensors(self.bits, self.dtype)

    @property
    def nbytes(self) -> int:
        return sum(prod(shape) * dtype.itemsize for dtype, shape in self.tensors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A weight file: its header, and where each tensor begins."""

    name: str
    header: bytes
    places: Mapping[str, int]
    entries: tuple[_Entry, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(entry.nbytes for entry in self.entries)


def mlx_model_check(base: Base, form: str) -> None:
    """Raise UnsupportedError listing all for which mlx-lm could not compute this model.

    base: may be a merged view, whose adapters can have untied a head or added biases.
    """
    faults = config_faults(base.decoder, base.config)
    entries = [] if faults else _entries(base, form)
    wide = [entry.weight.name for entry in entries if entry.dtype == np.float64]
    faults += [f"{name}: float64, which MLX lacks; another form has it: f32" for name in wide]
    if form in QUANTISED and entries and not any(entry.bits for entry in entries):
        faults.append(f"no matrix has rows of whole groups of {GROUP}: nothing would be quantised")
    if faults:
        raise UnsupportedError(
            "mlx-lm cannot compute this model",
            items=faults,
            hint="export it to another target, such as gguf or onnx",
        )


def mlx_notes(base: Base, form: str) -> tuple[str, ...]:
    """What is worth knowing of the export that `mlx_model_check` lets pass."""
    notes = config_notes(base.decoder)
    matrices_ = [entry for entry in _entries(base, form) if entry.weight.module is not None]
    plain = sum(entry.bits is None for entry in matrices_)
    if form in QUANTISED and plain:
        notes.append(
            f"{plain} of {len(matrices_)} matrices stay as they are: their rows are no whole "
            f"groups of {GROUP}"
        )
    return tuple(notes)


def expected_bytes(base: Base, form: str) -> int:
    """Bytes of the weight files."""
    return sum(file.size for file in _files(_entries(base, form), LARGEST))


def write_mlx(
    base: Base,
    folder: Path,
    form: str,
    *,
    on_bytes: OnBytes | None = None,
    largest: int = LARGEST,
) -> tuple[Path, ...]:
    """Write weights, config, tokenizer and index into a folder that holds none of them.

    base: of a folder, or a merged view of one. form: of FORMS. largest: bytes of a weight file.
    on_bytes: what it raises ends the export. Returns the weight files.

    Raises UnsupportedError as `mlx_model_check` does, AdapterError (values that the dtype cannot
    hold), BaseModelError, FormatError and OSError.
    """
    mlx_model_check(base, form)
    files = _files(_entries(base, form), largest)
    writer = _Writer(base, folder, on_bytes)
    for file in files:
        writer.write(file)
    require_finite(writer.faults)
    write_synced(folder / CONFIG, _json(_config(base, form, files)))
    write_synced(folder / INDEX, _json(_index(files)))
    for name, content in companions(base):
        write_synced(folder / name, content)
    return tuple(folder / file.name for file in files)


def _entries(base: Base, form: str) -> list[_Entry]:
    return [
        _Entry(weight=weight, bits=weight.bits(form), dtype=dtype_of(base, weight, form))
        for weight in weights(base.decoder)
    ]


def _files(entries: Sequence[_Entry], largest: int) -> list[_File]:
    """Weights in files of at most `largest` bytes; a larger weight has its own."""
    groups: list[list[_Entry]] = []
    size = 0
    for entry in entries:
        if not groups or size + entry.nbytes > largest:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    return [_file(_name(n, len(groups)), group) for n, group in enumerate(groups, 1)]


def _name(number: int, count: int) -> str:
    return WEIGHTS if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _file(name: str, entries: Sequence[_Entry]) -> _File:
    tensors = {key: value for entry in entries for key, value in entry.tensors.items()}
    header, places = layout(tensors, METADATA)
    return _File(name=name, header=header, places=places, entries=tuple(entries))


@dataclass(slots=True)
class _Writer:
    """Writes files one after another. faults: weights whose values cannot be written, and why."""

    base: Base
    folder: Path
    on_bytes: OnBytes | None
    done: int = 0
    faults: dict[str, str] = field(default_factory=dict)

    def write(self, file: _File) -> None:
        threads = min(THREADS, os.cpu_count() or 1)
        with (
            Target(self.folder / file.name, file.size) as target,
            ThreadPoolExecutor(threads) as pool,
        ):
            target.write(memoryview(file.header), 0)
            self.advance(len(file.header))
            try:
                for entry in file.entries:
                    self.entry(entry, file.places, target, pool)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def entry(
        self, entry: _Entry, places: Mapping[str, int], target: Target, pool: ThreadPoolExecutor
    ) -> None:
        """One weight, matrix by matrix, so that no more than one merged tensor is in memory."""
        first, step = 0, max(1, BLOCK // entry.weight.columns)
        for matrix in matrices(self.base, entry.weight):
            write = partial(self.block, entry, places, target, matrix, first)
            blocks = [(low, low + step) for low in range(0, len(matrix), step)]
            for nbytes in pool.map(write, blocks):
                self.advance(nbytes)
            first += len(matrix)

    def block(
        self,
        entry: _Entry,
        places: Mapping[str, int],
        target: Target,
        matrix: Array,
        first: int,
        rows: tuple[int, int],
    ) -> int:
        """Rows of a matrix that begins at the weight's row `first`; returns bytes written."""
        values, name = matrix[slice(*rows)], f"{entry.weight.name}.{entry.weight.kind}"
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.ascontiguousarray(values, entry.dtype)
        if name not in self.faults and (why := fault(values, stored)):
            self.faults[name] = why
            return 0
        parts = (stored,) if entry.bits is None else quantise(stored, entry.bits)
        for key, part in zip(entry.tensors, parts, strict=True):
            width = part.nbytes // max(len(part), 1)
            target.write(
                part.reshape(-1).view(np.uint8).data, places[key] + (first + rows[0]) * width
            )
        return sum(part.nbytes for part in parts)

    def advance(self, nbytes: int) -> None:
        self.done += nbytes
        if self.on_bytes is not None:
            self.on_bytes(self.done)


def _config(base: Base, form: str, files: Sequence[_File]) -> dict[str, Any]:
    config = mlx_config(base)
    entries = [entry for file in files for entry in file.entries]
    if form in QUANTISED:
        said: dict[str, Any] = {"group_size": GROUP, "bits": QUANTISED[form], "mode": "affine"}
        for entry in entries:
            if entry.weight.router and entry.bits is not None:
                said[entry.weight.name] = {"group_size": GROUP, "bits": ROUTER_BITS}
        config |= {"quantization": said, "quantization_config": said}
    elif form != "none":
        keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
        config |= dict.fromkeys(keys, entries[0].dtype.name)
    return dict(sorted(config.items()))


def _index(files: Sequence[_File]) -> dict[str, Any]:
    homes = {name: file.name for file in files for name in file.places}
    entries = [entry for file in files for entry in file.entries]
    metadata = {
        "total_size": sum(entry.nbytes for entry in entries),
        "total_parameters": sum(prod(entry.weight.shape) for entry in entries),
    }
    return {"metadata": metadata, "weight_map": dict(sorted(homes.items()))}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=4, ensure_ascii=False).encode() + b"\n"
