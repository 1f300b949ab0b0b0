"""The tensors of a GGUF file, rounded piece by piece on several threads and written in order.

Memory holds a few pieces, and what a tensor's blocks are made of while they are read. Which type a
tensor takes, and how values are rounded to it, is said by whoever calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import FormatError, UnsupportedError
from lorakit.files.gguf_types import PLAIN, stored_size
from lorakit.files.mapped import release
from lorakit.files.rounding import Rounding, is_finite

PIECE = 1 << 18  # values rounded at once: a fraction of a second in the slowest type
_KINDS = {dtype: kind for kind, dtype in PLAIN.items()}
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A tensor as it is written. shape: as numpy counts.

    blocks: its rows in order, [n, columns] each, of floats; or, as uint8, of bytes as stored.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[Array]]

    @property
    def nbytes(self) -> int:
        return stored_size(self.kind, prod(self.shape))


class _Piece(NamedTuple):
    output: Output
    rows: Array
    begins: bool  # the first of its tensor
    ends: bool


def write_tensors(
    file: BinaryIO,
    outputs: Sequence[Output],
    *,
    round_to: Mapping[str, Rounding],
    alignment: int,
    threads: int,
    on_piece: Callable[[Output, bool, int], object],
) -> None:
    """Write what follows a file's head, each tensor filled up to a multiple of the alignment.

    on_piece: given the tensor, whether the piece is its first, and its bytes, before it is written.
    Raises FormatError for values that are not finite, UnsupportedError for values that a type
    cannot hold, and OSError.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lorakit-gguf")
    pieces = (piece for output in outputs for piece in _pieces(output))
    try:
        for piece, content in in_order(pool, partial(_rounded, round_to), pieces, 2 * threads):
            on_piece(piece.output, piece.begins, content.nbytes)
            file.write(content.data)
            release(content)
            if piece.ends:
                file.write(bytes(-piece.output.nbytes % alignment))
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(output: Output) -> Iterator[_Piece]:
    columns, done, rows = output.shape[-1], 0, prod(output.shape[:-1])
    step = max(1, PIECE // columns)
    for block in output.blocks():
        for begin in range(0, len(block), step):
            some = block[begin : begin + step]
            yield _Piece(output, some, done == 0, done + len(some) == rows)
            done += len(some)
    assert done == rows, output.name


def in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    ahead: int,
) -> Iterator[_Result]:
    """Results in the order of the items, at most `ahead` of them begun before they are needed."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _rounded(round_to: Mapping[str, Rounding], piece: _Piece) -> tuple[_Piece, Array]:
    kind, rows = piece.output.kind, np.ascontiguousarray(piece.rows)
    if rows.dtype == np.uint8 or _KINDS.get(rows.dtype) == kind:
        raw = rows.reshape(-1).view(np.uint8)
        if not is_finite(kind, raw):
            raise _not_finite(piece)
        return piece, raw
    try:
        rounded = round_to[kind](rows.reshape(-1))
    except OverflowError as error:
        if not np.isfinite(rows).all():
            raise _not_finite(piece) from error
        raise UnsupportedError(
            f"{piece.output.name} has {error}, which {kind} cannot hold",
            hint="F32 and BF16 hold every value",
        ) from error
    release(piece.rows)
    return piece, rounded


def _not_finite(piece: _Piece) -> FormatError:
    return FormatError(
        f"{piece.output.name} has values that are not finite numbers",
        hint="the file is damaged, or the model's training diverged: get another copy",
    )
