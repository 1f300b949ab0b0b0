"""Where in a checkpoint's files a delta or a replaced parameter has to go.

Names are those of the files from here on. A stored tensor counts as a matrix, as in change.py, so
that one expert of a fused tensor is some of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lorakit.adapter import Array, Delta, Replacement, Site
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.merge.change import Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A stored tensor, or rows of one, that hold a module's weight, or one expert's part of it.

    transposed: the tensor is [in, out], as GPT-2's Conv1D is.
    """

    name: str
    expert: int | None = None
    begin: int = 0
    transposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A delta as one use of a weight sees it. flipped: with A and B in exchanged places."""

    delta: Delta
    module: str
    flipped: bool


def delta_uses(delta: Delta, embedding: str) -> Iterator[Use]:
    """Which weights a delta changes: the module's own, the head's, or both.

    A stored embedding is [vocabulary, hidden], which is a head's [out, in]: a delta that is written
    for the lookup acts transposed in both places.
    """
    if delta.site in (Site.INPUT, Site.BOTH):
        yield Use(delta=delta, module=delta.module, flipped=True)
    if delta.site is Site.BOTH:
        yield Use(delta=delta, module=HEAD, flipped=True)
    elif delta.site is Site.OUTPUT and delta.module == embedding:
        yield Use(delta=delta, module=HEAD, flipped=False)
    elif delta.site in (Site.LINEAR, Site.OUTPUT):
        yield Use(delta=delta, module=delta.module, flipped=False)


def places(base: Base, module: str) -> Iterator[Place]:
    """Where a module's weight is, expert by expert; of a tied head, the embedding."""
    shape = base.decoder.modules()[module]
    for stored in base.stored(module):
        transposed = stored.transposed and not shape.embedding
        if shape.experts is None or stored.expert is not None:
            yield Place(name=stored.name, expert=stored.expert, transposed=transposed)
            continue
        rows = base.tensors[stored.name].shape[-2]
        first = 0 if stored.rows is None else stored.rows[0]
        for expert in range(shape.experts):
            yield Place(name=stored.name, expert=expert, begin=expert * rows + first)


def term(place: Place, use: Use, scale: float, magnitude: Array | None) -> Term:
    """What a delta does there, with its magnitude if it has one."""
    delta, flip = use.delta, use.flipped != place.transposed
    a, b = delta.a, delta.b
    if place.expert is not None:
        a, b = a[place.expert], b[place.expert]
    a, b = (b.T, a.T) if flip else (a, b)
    if magnitude is not None and magnitude.ndim > 1 and place.expert is not None:
        magnitude = magnitude[place.expert]
    return Term(
        begin=place.begin,
        end=place.begin + len(b),
        a=a,
        b=b,
        scale=delta.scale * scale,
        magnitude=magnitude,
        by_column=magnitude is not None and _norms_columns(place, use, magnitude),
    )


def _norms_columns(place: Place, use: Use, magnitude: Array) -> bool:
    """PEFT's magnitude of an embedding is over its hidden axis, MLX's over its vocabulary."""
    if use.flipped:
        return len(magnitude) == use.delta.out_features
    if use.delta.site is Site.OUTPUT:
        return len(magnitude) == use.delta.in_features
    return place.transposed


def bias_term(bias: Array, scale: float) -> Term:
    """A vector is a matrix of one column, so a bias is a delta of rank one."""
    one = np.ones((1, 1), np.float32)
    return Term(begin=0, end=len(bias), a=one, b=bias[:, None], scale=scale)


def parameter_parts(base: Base, replacement: Replacement) -> Iterator[Replacement]:
    """The replacement under the names of the files, which may hold the parameter in parts."""
    name = base.file_name(replacement.name)
    if name in base.tensors:
        yield replace(replacement, name=name)
        return
    begin = 0
    for module, shape in base.decoder.modules().items():
        if base.decoder.fused(module) == replacement.name:
            rows = slice(begin, begin + shape.out_features)
            begin = rows.stop
            for part in base.stored(module):
                yield replace(
                    replacement, name=part.name, value=replacement.value[part.expert, rows]
                )
