"""The tensors of a GGUF file, made of a base's parameters some rows at a time as they are written.

As llama.cpp's converter does it (formats/gguf/places.py): rows of q and k of Llama's family in
another order, the 1 of Gemma's norms added in float32, experts stacked, GPT-2's matrices turned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.files.mapped import release
from lorakit.formats.gguf.names import permuted
from lorakit.formats.gguf.places import Place, places


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A tensor's shape, as numpy counts, and its rows in order: floats [n, columns] at a time."""

    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Array]]

    @classmethod
    def of(cls, values: Array) -> Source:
        """A vector that is there already."""
        return cls(shape=values.shape, blocks=lambda: iter([values[None]]))


def sources(base: Base) -> dict[str, Source]:
    """All tensors by GGUF's names. Reads nothing."""
    return {place.tensor: _source(base, place) for place in places(base.decoder)}


def _source(base: Base, place: Place) -> Source:
    offset = base.decoder.architecture.norm_offset
    if len(place.shape) == 3:
        blocks = partial(_experts, base, place)
    elif place.heads:
        blocks = partial(_permuted, base, place)
    elif place.is_norm and place.kind == "weight" and offset:
        blocks = partial(_shifted, base, place, offset)
    else:
        blocks = partial(_rows, base, place)
    return Source(shape=place.shape, blocks=blocks)


def _rows(base: Base, place: Place) -> Iterator[Array]:
    array = base.tensor(place.parameter)
    yield array.T if place.turned else np.atleast_2d(array)
    release(array)


def _shifted(base: Base, place: Place, offset: float) -> Iterator[Array]:
    yield base.tensor(place.parameter)[None].astype(np.float32) + np.float32(offset)


def _permuted(base: Base, place: Place) -> Iterator[Array]:
    """A head at a time; a bias at once."""
    array = base.tensor(place.parameter)
    rows = array.reshape(len(array), -1)
    size = len(rows) // place.heads
    heads = (permuted(rows[at : at + size], 1, 2) for at in range(0, len(rows), size))
    if array.ndim == 1:
        yield np.concatenate(list(heads)).reshape(1, -1)
        return
    yield from heads
    release(array)


def _experts(base: Base, place: Place) -> Iterator[Array]:
    for part in base.stored(place.module):
        array = base.tensors[part.name]
        weight = part.view(array)
        yield from weight if weight.ndim == 3 else [weight]
        release(array)
