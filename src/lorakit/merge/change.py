"""What adapters do to one stored tensor, as arithmetic on blocks of its rows.

A tensor of a checkpoint is seen as a matrix here: its last axis is the columns, all others are
rows; a vector is a matrix of one column. It knows nothing of files, modules or adapters' formats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lorakit.adapter import Array
from lorakit.products import ALONE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """What a delta adds to the rows from `begin` up to `end`, in stored orientation: D =
    scale * b @ a with a [r, columns], b [rows, r].

    magnitude: DoRA's (Liu et al. 2024, https://arxiv.org/abs/2402.09353), one value for each row,
    or with `by_column` for each column. With V = W + D, what there was and D are then multiplied by
    m / |V|: one adapter alone gives m / |V| V.
    """

    begin: int
    end: int
    a: Array
    b: Array
    scale: float
    magnitude: Array | None = None
    by_column: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """Replacements first, which give W, then every term in order."""

    whole: Array | None = None  # in the tensor's shape
    rows: tuple[tuple[Array, Array], ...] = ()  # ids [n], values [n, columns]
    terms: tuple[Term, ...] = ()

    @property
    def norms_columns(self) -> bool:
        return any(term.magnitude is not None and term.by_column for term in self.terms)


@dataclass(slots=True, kw_only=True, eq=False)
class _Ready:
    """A term in the precision of the arithmetic, its scale folded into b."""

    begin: int
    end: int
    a: Array
    b: Array
    magnitude: Array | None
    by_column: bool
    ratio: Array | None = None  # m / |V| by column, once it is known


@dataclass(slots=True, eq=False)
class Arithmetic:
    """A Change made ready for blocks of rows. `apply` may be called from several threads.

    rows, columns: the tensor as a matrix. dtype: float32, or float64 for tensors that hold it.
    read: gives rows of the original in that dtype; called only by DoRA of an embedding or of a
    transposed tensor, whose norms go down the columns and need a pass of their own.
    """

    change: Change
    columns: int
    dtype: np.dtype[np.generic]
    terms: list[_Ready] = field(init=False)
    whole: Array | None = field(init=False)

    def __post_init__(self) -> None:
        self.terms = [_ready(term, self.dtype) for term in self.change.terms]
        whole = self.change.whole
        self.whole = None if whole is None else whole.reshape(-1, self.columns)

    def measure(self, rows: int, step: int, read: Callable[[int, int], Array]) -> None:
        """The pass over the whole tensor that norms of columns need, `step` rows at a time."""
        waiting = [term for term in self.terms if term.magnitude is not None and term.by_column]
        for term in waiting:
            squares = np.zeros(self.columns, np.float64)
            for begin in range(0, rows, step):
                end = min(begin + step, rows)
                block = self.replaced(read(begin, end), begin)
                block += term.b[begin:end] @ term.a
                squares += np.square(block, dtype=np.float64).sum(axis=0)
            term.ratio = _ratio(term.magnitude, np.sqrt(squares)).astype(self.dtype)

    def replaced(self, block: Array, begin: int) -> Array:
        """The block of rows from `begin` on after replacements; changed in place."""
        end = begin + len(block)
        if self.whole is not None:
            block[...] = self.whole[begin:end]
        for ids, values in self.change.rows:
            first, last = np.searchsorted(ids, (begin, end))
            block[ids[first:last] - begin] = values[first:last]
        return block

    def apply(self, block: Array, begin: int, scratch: Array) -> None:
        """Change the rows from `begin` on in place; scratch: room for as many values."""
        self.replaced(block, begin)
        dora = any(term.magnitude is not None for term in self.terms)
        original = block.copy() if dora and len(self.terms) > 1 else None
        for term in self.terms:
            low, high = max(term.begin, begin), min(term.end, begin + len(block))
            if low >= high:
                continue
            mine, theirs = (
                slice(low - begin, high - begin),
                slice(low - term.begin, high - term.begin),
            )
            added = scratch[: (high - low) * self.columns].reshape(-1, self.columns)
            _product(term.b[theirs], term.a, added)
            block[mine] += added
            if term.magnitude is not None:
                alone = block[mine] if original is None else np.add(added, original[mine], added)
                block[mine] *= _renormalised(alone, term, theirs)


def _product(b: Array, a: Array, out: Array) -> None:
    """b @ a in slices that BLAS does not share out between threads of its own: the callers are
    threads already, and OpenBLAS's then wait for each other at five times the cost."""
    step = max(1, ALONE // max(a.size, 1))
    for begin in range(0, len(b), step):
        np.matmul(b[begin : begin + step], a, out=out[begin : begin + step])


def _renormalised(alone: Array, term: _Ready, rows: slice) -> Array:
    """DoRA's ratio, by the norms of what this term alone makes of the original."""
    if term.ratio is not None:
        return term.ratio
    assert term.magnitude is not None
    norms = np.sqrt(np.einsum("rc,rc->r", alone, alone))
    return _ratio(term.magnitude[rows], norms)[:, None].astype(alone.dtype)


def _ratio(magnitude: Array | None, norms: Array) -> Array:
    """m / |V|; 0 where V is 0, which stays so."""
    assert magnitude is not None
    return np.divide(magnitude, norms, out=np.zeros(norms.shape, np.float64), where=norms > 0)


def _ready(term: Term, dtype: np.dtype[np.generic]) -> _Ready:
    magnitude = term.magnitude
    return _Ready(
        begin=term.begin,
        end=term.end,
        a=np.ascontiguousarray(term.a, dtype),
        b=np.ascontiguousarray(term.b.astype(np.float64) * term.scale, dtype),
        magnitude=None if magnitude is None else magnitude.astype(np.float64),
        by_column=term.by_column,
    )
