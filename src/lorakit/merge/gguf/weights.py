"""Which tensor of a GGUF file, or which of its rows, a parameter of the model class is.

llama.cpp's converter renames parameters, exchanges rows of q and k of Llama's family, stores
Gemma's norms with the 1 that its class adds, stacks the matrices of experts and turns GPT-2's over.
Here all of that is undone, for some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lorakit.adapter import Array
from lorakit.architectures import Decoder, Stored, spellings
from lorakit.errors import BaseModelError, UnsupportedError
from lorakit.files.dequantize import READABLE, dequantize
from lorakit.files.gguf import GgufFile, Tensor
from lorakit.files.gguf_types import BLOCKS, PLAIN
from lorakit.formats.gguf.names import permuted
from lorakit.formats.gguf.places import FREQUENCIES, Place, places


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """A parameter, as rows of a tensor of the file. A vector is a matrix of one column.

    first: where its rows begin in the tensor, one expert's. heads: rows of so many heads are in
    GGUF's order. offset: what the file's values have more. transposed: the tensor is turned over.
    """

    tensor: Tensor
    shape: tuple[int, ...]  # as the model class has it
    first: int = 0
    heads: int = 0
    offset: float = 0.0
    transposed: bool = False

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """What the values are: of a quantised tensor float32, in which they are exact."""
        dtype: np.dtype[np.generic] = PLAIN.get(self.tensor.kind, np.dtype(np.float32))
        return dtype

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    def read(self, begin: int, end: int) -> Array:
        """Rows of the parameter as float32: [end - begin, columns]."""
        if self.transposed:
            values = self._columns(begin, end).T
        elif len(self.shape) == 1:
            values = dequantize(self.tensor.kind, self.tensor.raw)[self._places(begin, end), None]
        else:
            values = dequantize(self.tensor.kind, self._rows[self._places(begin, end)])
        return values - np.float32(self.offset) if self.offset else values

    def array(self) -> Array:
        """The whole parameter in its own dtype."""
        rows = int(np.prod(self.shape)) // max(self.columns, 1)
        return self.read(0, rows).astype(self.dtype, copy=False).reshape(self.shape)

    def _places(self, begin: int, end: int) -> slice | Array:
        """Where these rows are in the tensor."""
        if not self.heads:
            return slice(self.first + begin, self.first + end)
        order = np.arange(self.shape[0])[:, None]
        places: Array = permuted(order, self.heads, 1)[begin:end, 0]
        return places

    @cached_property
    def _rows(self) -> Array:
        return self.tensor.raw.reshape(int(np.prod(self.tensor.shape[:-1])), -1)

    def _columns(self, begin: int, end: int) -> Array:
        """Columns of the tensor, out of the blocks that hold them."""
        values, size = BLOCKS[self.tensor.kind]
        low, high = begin // values, -(-end // values)
        some = dequantize(self.tensor.kind, self._rows[:, low * size : high * size])
        return some[:, begin - low * values : end - low * values]


def held(file: GgufFile, decoder: Decoder, *, beside: bool = False) -> dict[str, Held]:
    """The parameters by the names that a checkpoint gives them, in the order of the model.

    beside: whatever else the file holds is let pass.
    Raises BaseModelError listing tensors that are missing or of another shape, and UnsupportedError
    listing those that this model class has no place for, or whose type is not read.
    """
    wanted = list(places(decoder))
    _require_whole(file, wanted)
    if not beside:
        _require_known(file, {place.tensor for place in wanted})
    row, ways = decoder.architecture, spellings(decoder)
    table = {}
    for place in wanted:
        tensor = file.tensors[place.tensor]
        if len(place.shape) == 3:
            for part in ways[place.module][0]:
                first = (part.expert or 0) * place.shape[1]
                table[part.name] = Held(tensor=tensor, shape=place.shape[1:], first=first)
            continue
        table[place.parameter] = Held(
            tensor=tensor,
            shape=place.shape[::-1] if place.turned else place.shape,
            heads=place.heads,
            offset=row.norm_offset if place.is_norm and place.kind == "weight" else 0.0,
            transposed=place.turned,
        )
    return table


def stored(decoder: Decoder) -> dict[str, tuple[Stored, ...]]:
    """How the checkpoint that is written spells each module's weight: experts one by one."""
    return {module: ways[0] for module, ways in spellings(decoder).items()}


def _require_whole(file: GgufFile, wanted: Sequence[Place]) -> None:
    faults = {}
    for place in wanted:
        found = file.tensors.get(place.tensor)
        if found is None:
            faults[place.tensor] = f"missing, expected {list(place.shape)}"
        elif found.shape != place.shape:
            faults[place.tensor] = f"expected {list(place.shape)}, found {list(found.shape)}"
    if faults:
        raise BaseModelError(
            f"the tensors in {file.path} do not match its metadata",
            items=[f"{name}: {fault}" for name, fault in faults.items()][:20],
        )


def _require_known(file: GgufFile, wanted: set[str]) -> None:
    rest = [name for name in file.tensors if name not in wanted and name not in FREQUENCIES]
    if rest:
        raise UnsupportedError(
            f"{file.path} holds tensors that a Hugging Face model of this kind has no place for",
            items=[f"{name} {list(file.tensors[name].shape)}" for name in rest[:20]],
        )
    strange = [f"{n}: {t.kind}" for n, t in file.tensors.items() if t.kind not in READABLE]
    if strange:
        raise UnsupportedError(
            f"{file.path} holds tensors of types that are not dequantised here",
            items=strange[:20],
            hint=f"read are {', '.join(sorted(READABLE))}; take the same model in one of them",
        )


class Dequantised(Mapping[str, Array]):
    """The parameters by name, each dequantised when it is asked for."""

    def __init__(self, table: Mapping[str, Held]) -> None:
        self.table = table

    def __getitem__(self, name: str) -> Array:
        return self.table[name].array()

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, name: object) -> bool:
        return name in self.table
