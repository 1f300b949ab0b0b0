"""An attached adapter: what it changes, by where the engine applies it.

Linears and norms are the graph's, the vocabulary's two ends the host's. For a DoRA layer the three
sums that its norms are made of at any scale are computed here, once, from the base's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array
from lorakit.graph.gains import Extra
from lorakit.graph.weights import parts
from lorakit.products import add_product

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dora:
    """DoRA's m / |W + s B A| at any scale s (Liu et al. 2024), one for each output.

    own, cross, low: |W|^2, W . BA and |BA|^2 of each, so that a scale costs no product.
    """

    magnitude: Array
    own: Sums
    cross: Sums
    low: Sums
    _last: list[tuple[float, Floats]] = field(default_factory=list)  # a head asks at every step

    def gain(self, scale: float) -> Floats:
        """0 where the norm is 0. scale: the delta's own is in it."""
        if not self._last or self._last[0][0] != scale:
            self._last[:] = [(scale, self._gain(scale))]
        return self._last[0][1]

    def _gain(self, scale: float) -> Floats:
        squares = np.maximum(self.own + 2 * scale * self.cross + scale**2 * self.low, 0)
        norms = np.sqrt(squares)
        found = np.divide(self.magnitude, norms, out=np.zeros_like(norms), where=norms > 0)
        narrow: Floats = found.astype(np.float32)
        return narrow

    @classmethod
    def of_rows(cls, weight: Array, a: Array, b: Array, magnitude: Array) -> Dora:
        """weight [out, in], a [r, in], b [out, r], norms of rows."""
        a = a.astype(np.float32)
        own, cross = np.zeros((2, len(weight)))
        for rows in parts(weight):
            part = weight[rows].astype(np.float32)
            own[rows] = np.einsum("ij,ij->i", part, part)
            product = np.zeros((len(a), len(part)), np.float32)
            add_product(product, a, part.T)
            cross[rows] = np.einsum("ro,or->o", product, b[rows], dtype=np.float64)
        return cls._of(a, b, magnitude, own, cross)

    @classmethod
    def of_columns(cls, table: Array, a: Array, b: Array, magnitude: Array) -> Dora:
        """table [vocabulary, hidden], a [r, vocabulary], b [hidden, r], norms of columns."""
        a = a.astype(np.float32)
        own, product = np.zeros(table.shape[1]), np.zeros((len(a), table.shape[1]), np.float32)
        for rows in parts(table):
            part = table[rows].astype(np.float32)
            own += np.einsum("ij,ij->j", part, part)
            add_product(product, a[:, rows], part)
        return cls._of(a, b, magnitude, own, np.einsum("ro,or->o", product, b, dtype=np.float64))

    @classmethod
    def _of(cls, a: Array, b: Array, magnitude: Array, own: Sums, cross: Sums) -> Dora:
        gram = a.astype(np.float64) @ a.T.astype(np.float64)
        wide = b.astype(np.float64)
        low = np.einsum("or,or->o", wide @ gram, wide)
        return cls(magnitude=magnitude.astype(np.float64), own=own, cross=cross, low=low)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """A delta as the engine wants it, with a [rank, in], b [out, rank]: y = W x + scale * b (a x).
    Those of experts have an axis for them in front.

    bias: B's own [out]. reads: the same of a tied embedding as its head reads it, [in]: each output
    gets scale * (reads . x). dora: then y = gain * (W x + scale * b (a x)).
    """

    a: Array
    b: Array
    scale: float
    bias: Floats | None = None
    reads: Floats | None = None
    dora: Dora | None = None

    @property
    def rank(self) -> int:
        return int(self.a.shape[-2])

    def widened(self) -> Factors:
        """The same in float32, for use as it is; the same arrays where they are that already."""
        return Factors(
            a=self.a.astype(np.float32, copy=False),
            b=self.b.astype(np.float32, copy=False),
            scale=self.scale,
            bias=self.bias,
            reads=self.reads,
            dora=self.dora,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """What replaces the vocabulary's matrix at one of its uses: all of it, then some rows."""

    whole: Array | None = None  # [vocabulary, hidden]
    ids: npt.NDArray[np.int64] | None = None  # increasing
    values: Floats | None = None  # [ids, hidden]

    def __bool__(self) -> bool:
        return self.whole is not None or self.ids is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attached:
    """An adapter that an engine holds: what the graph applies, and what the host does.

    weights: of linears, which are replaced, as factors: one of the two is the identity. biases:
    what a replaced one differs by. norms: what they multiply by. Of `embedding` a is
    [rank, vocabulary] and b [hidden, rank], of `head` [rank, hidden] and [vocabulary, rank].
    replaced, normed: names of parameters, of which normed have DoRA's norms; the head's own for
    that use of a tied matrix.
    """

    linears: Mapping[str, Factors]
    embedding: tuple[Factors, ...] = ()
    head: tuple[Factors, ...] = ()
    weights: Mapping[str, Factors] = field(default_factory=dict)
    biases: Mapping[str, Floats] = field(default_factory=dict)
    norms: Mapping[str, Floats] = field(default_factory=dict)
    lookup: Table = Table()
    projection: Table = Table()
    replaced: frozenset[str] = frozenset()
    normed: frozenset[str] = frozenset()

    @property
    def rank(self) -> int:
        """The largest of its linears."""
        every = (*self.linears.values(), *self.weights.values())
        return max((factors.rank for factors in every), default=0)

    @property
    def extras(self) -> frozenset[Extra]:
        """What of it plain low-rank inputs of the graph cannot say."""
        found: set[Extra] = set()
        linear = self.linears.values()
        if self.weights or self.biases or any(f.dora or f.bias is not None for f in linear):
            found.add("gains")
        if self.norms:
            found.add("norms")
        if any(factors.a.ndim == 3 for factors in linear):
            found.add("experts")
        return frozenset(found)
