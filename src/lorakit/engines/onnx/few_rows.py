"""Logits of a few tokens, on the host: their rows of the vocabulary's matrix times final states.

A constraint often leaves a few tokens of a large vocabulary, and then most of a small model's step
would go into logits that nobody reads. The checkpoint's rows get the form that the graph stores
them in, and final states the codes that the graph makes of them, so that a choice does not depend
on how many tokens it is between. Rows that were used are kept. It knows nothing of onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.graph import HEAD, HeadForm
from lorakit.graph.blockwise import WIDE, block_size, packed8
from lorakit.graph.even import rotation
from lorakit.graph.int8 import int8_columns
from lorakit.products import ALONE

FEW = 4096  # tokens; of more the whole product costs less
HELD = 32 << 20  # bytes of rows that are kept
PLAIN: dict[str, type[np.floating]] = {  # forms in floating point; blocks that cannot be cut
    "float32": np.float32,
    "float16": np.float16,
    "block8": np.float32,
}
EXACT = 1024  # products of 8-bit codes whose sum float32 holds exactly
UNIT = np.float32(1 / 127)
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Form(Protocol):
    """One way to store rows, and to multiply by them."""

    def stored(self, rows: Array) -> tuple[Floats, Floats]:
        """Values [rows, hidden] and scales [rows, n] of rows of the checkpoint's matrix."""
        ...

    def read(self, x: Floats) -> Any:
        """What of x [n, hidden] every product needs."""
        ...

    def product(self, x: Any, values: Floats, scales: Floats) -> Floats:
        """[n, rows], of what `read` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """In floating point, as wide as a dtype."""

    dtype: type[np.floating]

    def stored(self, rows: Array) -> tuple[Floats, Floats]:
        values = rows.astype(self.dtype, copy=False).astype(np.float32, copy=False)
        return values, np.zeros((len(rows), 0), np.float32)

    def read(self, x: Floats) -> Floats:
        return x

    def product(self, x: Floats, values: Floats, scales: Floats) -> Floats:
        found: Floats = x @ values.T
        return found


@dataclass(frozen=True, slots=True)
class Rowwise:
    """Codes of 8 bits with a scale per row: see graph.int8. divisors: see graph.even."""

    divisors: Floats | None

    def stored(self, rows: Array) -> tuple[Floats, Floats]:
        codes, scales = int8_columns(rows, self.divisors)
        return codes.T.astype(np.float32), scales[:, np.newaxis]

    def read(self, x: Floats) -> tuple[Floats, Floats]:
        """Codes, and the largest magnitude of each row."""
        if self.divisors is not None:
            x = evened(x, self.divisors)
        size = np.abs(x).max(axis=1, keepdims=True, initial=0)
        unit = x / np.where(size == 0, np.float32(1), size)
        return np.rint(unit / UNIT), size

    def product(self, x: tuple[Floats, Floats], values: Floats, scales: Floats) -> Floats:
        """Sums of integers are exact in any order as long as float32 holds them."""
        codes, size = x
        total: Array = codes[:, :EXACT] @ values[:, :EXACT].T
        for begin in range(EXACT, values.shape[1], EXACT):
            part = slice(begin, begin + EXACT)
            total = total.astype(np.float64) + codes[:, part] @ values[:, part].T
        found: Floats = total.astype(np.float32) * (UNIT * scales[:, 0]) * size
        return found


@dataclass(frozen=True, slots=True)
class Blockwise:
    """Codes of 8 bits with a scale per block: see graph.blockwise."""

    block: int
    narrow: bool

    def stored(self, rows: Array) -> tuple[Floats, Floats]:
        packed = packed8(rows, self.block, narrow=self.narrow)
        values = packed.codes.astype(np.float32) - 128
        return values.reshape(len(rows), -1), packed.scales.astype(np.float32)

    def read(self, x: Floats) -> tuple[Floats, Floats]:
        """Codes [n, blocks, block] and a scale for each block."""
        cut = x.reshape(len(x), -1, self.block)
        scales = np.abs(cut).max(axis=2) / np.float32(127)
        safe = np.where(scales == 0, np.float32(1), scales)
        return np.rint(cut / safe[..., np.newaxis]), scales

    def product(self, x: tuple[Floats, Floats], values: Floats, scales: Floats) -> Floats:
        codes, sizes = x
        cut = values.reshape(len(values), -1, self.block)
        sums = np.matmul(cut.swapaxes(0, 1), codes.transpose(1, 2, 0))  # [blocks, rows, n]
        found: Floats = np.einsum("brn,rb,nb->nr", sums, scales, sizes)
        return found


def evened(x: Floats, divisors: Floats) -> Floats:
    """x [n, hidden] divided and rotated, with sums in onnxruntime's order: one after another."""
    turn = rotation(len(divisors))
    blocks = (x * (np.float32(1) / divisors)).reshape(-1, len(turn))
    terms = blocks.T[:, :, np.newaxis] * turn[:, np.newaxis, :]  # its signs lose nothing
    found: Floats = np.add.reduce(terms, axis=0)  # the outermost axis: in order, one by one
    return found.reshape(x.shape)


@dataclass(slots=True)
class Held:
    """Rows by token, the most recently used of them. Room is taken when it is first written to."""

    vocabulary: int
    room: int
    values: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    scales: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _at: npt.NDArray[np.int32] = field(init=False)  # by token; -1: not held
    _tokens: Ids = field(init=False)  # by place
    _used: Ids = field(init=False)  # when, by place
    _now: int = 0
    _free: Ids = field(init=False)

    def __post_init__(self) -> None:
        self._at = np.full(self.vocabulary, -1, np.int32)
        self._tokens = np.full(self.room, -1, np.int64)
        self._used = np.zeros(self.room, np.int64)
        self._free = np.arange(self.room)

    def places(self, ids: Ids) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Where each is, and which of them are not there."""
        self._now += 1
        found = self._at[ids]
        missing = found < 0
        self._used[found[~missing]] = self._now
        return found, missing

    def put(self, ids: Ids, values: Floats, scales: Floats) -> Ids:
        """Places of rows that were missing, in place of those used longest ago."""
        if not len(self.values):
            self.values = np.empty((self.room, values.shape[1]), np.float32)
            self.scales = np.empty((self.room, scales.shape[1]), np.float32)
        if len(self._free) < len(ids):
            self._let_go(max(len(ids), self.room // 8) - len(self._free))
        places, self._free = self._free[: len(ids)], self._free[len(ids) :]
        self.values[places], self.scales[places] = values, scales
        self._at[ids], self._tokens[places], self._used[places] = places, ids, self._now
        return places

    def _let_go(self, count: int) -> None:
        used = np.where(self._tokens < 0, np.iinfo(np.int64).max, self._used)  # free already
        oldest = np.argsort(used, kind="stable")[:count]
        oldest = oldest[used[oldest] < self._now]
        self._at[self._tokens[oldest]] = -1
        self._tokens[oldest] = -1
        self._free = np.concatenate([self._free, oldest])


class FewRows:
    """The head's rows of a base, for tokens that are asked for."""

    def __init__(self, base: Base, form: HeadForm) -> None:
        self._matrix = base.weight(HEAD)
        vocabulary, hidden = self._matrix.shape
        bias = base.decoder.modules()[HEAD].bias
        self._bias = base.tensor(f"{HEAD}.bias") if bias else None
        self._form = _form(form, hidden)
        self._held = Held(vocabulary, min(vocabulary, max(FEW, HELD // (4 * hidden))))
        self._piece = max(1, ALONE // hidden)

    def logits(self, final: Floats, ids: Ids) -> Floats:
        """float32 [n, ids], of final states [n, hidden] and at most FEW ascending tokens."""
        places, missing = self._held.places(ids)
        if missing.any():
            new = ids[missing]
            places[missing] = self._held.put(new, *self._form.stored(self._matrix[new]))
        x, found = self._form.read(final), np.empty((len(final), len(ids)), np.float32)
        for begin in range(0, len(ids), self._piece):
            part = slice(begin, begin + self._piece)
            at = places[part]
            values, scales = self._held.values[at], self._held.scales[at]
            found[:, part] = self._form.product(x, values, scales)
        if self._bias is not None:
            found += self._bias[ids].astype(np.float32)
        return found


def _form(head: HeadForm, hidden: int) -> Form:
    """As quantize.form_of has it."""
    if head.name.startswith("rowwise8"):
        return Rowwise(head.divisors)
    if head.name == "block8" and (block := block_size(hidden, WIDE)) is not None:
        return Blockwise(block, head.narrow)
    return Plain(PLAIN[head.name])
