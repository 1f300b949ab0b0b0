"""Where a checkpoint keeps a module's weight: tensor names, and what of each tensor is whose.

A module's weight is [out, in] everywhere in lorakit (of an embedding: [hidden, vocabulary]; of
experts: [experts, out, in]). Checkpoints keep Conv1D and embeddings the other way round, and
experts either one by one (transformers 4 and what 5 saves) or fused (the model class of 5).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from lorakit.adapter import Array
from lorakit.architectures.decoder import Decoder
from lorakit.architectures.layouts import HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor of a checkpoint that holds a module's weight, or the part of it that is said here.

    expert: the tensor is this expert's matrix alone. rows: the module's rows in the tensor, from
    and up to, counted along its output axis. transposed: the last two axes are stored [in, out].
    """

    name: str
    expert: int | None = None
    rows: tuple[int, int] | None = None
    transposed: bool = False

    def view(self, tensor: Array) -> Array:
        """The weight as [out, in], or [experts, out, in]: a view of the tensor."""
        weight = np.swapaxes(tensor, -1, -2) if self.transposed else tensor
        return weight if self.rows is None else weight[..., slice(*self.rows), :]


Spellings = tuple[tuple[Stored, ...], ...]


def spellings(decoder: Decoder) -> dict[str, Spellings]:
    """The ways in which a checkpoint may hold each module's weight, the usual one first.

    Each way is all the tensors that it takes. A tied head is the embedding.
    """
    table: dict[str, Spellings] = {}
    for module, shape in decoder.modules().items():
        flipped = shape.embedding or shape.transposed
        table[module] = ((Stored(name=f"{module}.weight", transposed=flipped),),)
    for index, layer in enumerate(decoder.layers):
        if layer.sparse:
            table |= _experts(decoder, f"{decoder.architecture.layout.blocks}.{index}")
    if decoder.tied:
        table[HEAD] = ((Stored(name=f"{decoder.embedding}.weight"),),)
    return table


def _experts(decoder: Decoder, block: str) -> dict[str, Spellings]:
    """One tensor for each expert, or one for all of them and for the projections it joins."""
    linears = [linear for linear in decoder.architecture.layout.sparse if linear.fused]
    joined = Counter(linear.fused[0] for linear in linears if linear.fused)
    count = decoder.experts.count if decoder.experts else 0
    table: dict[str, Spellings] = {}
    for linear in linears:
        assert linear.fused is not None
        name, part = linear.fused
        rows = decoder.width(linear.outputs[0])
        span = (part * rows, (part + 1) * rows) if joined[name] > 1 else None
        at, _, projection = f"{block}.{linear.name}".rpartition(".")
        table[f"{block}.{linear.name}"] = (
            tuple(
                Stored(name=f"{at}.{expert}.{projection}.weight", expert=expert)
                for expert in range(count)
            ),
            (Stored(name=f"{block}.{name}", rows=span),),
        )
    return table
