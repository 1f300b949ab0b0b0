"""Shards from disk to disk: what stays is copied by the system, what changes goes through blocks.

A few threads take pieces of a few megabytes in the order of their bytes, so that memory is a few
pieces whatever the model's size, and reading, arithmetic and writing overlap.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorakit.adapter import Array
from lorakit.merge.change import Arithmetic, Change
from lorakit.merge.files import Source, Target
from lorakit.merge.shards import Entry, Output, Shard

PIECE = 1 << 20  # values of a piece that is computed
BLOCK = 1 << 17  # values worked on at a time, so that they stay in a core's cache
COPY = 16 << 20  # bytes of a piece that is copied
THREADS = 4
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Stream:
    """Writes shards into a folder. `faults`: tensors with values that their dtype cannot hold."""

    folder: Path
    progress: Progress | None = None
    total: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    done: int = 0
    scratch: threading.local = field(default_factory=threading.local)

    def write(self, shard: Shard) -> None:
        """Write one shard and flush it to the disk. Raises OSError where that fails."""
        threads = min(THREADS, os.cpu_count() or 1)
        with (
            _Sources() as sources,
            Target(self.folder / shard.name, shard.size) as target,
            ThreadPoolExecutor(threads) as pool,
        ):
            target.write(memoryview(shard.header), 0)
            self.advance(len(shard.header))
            waiting: deque[Future[int]] = deque()
            try:
                for piece in self.pieces(shard, sources, target):
                    waiting.append(pool.submit(piece))
                    if len(waiting) > 2 * threads:
                        self.advance(waiting.popleft().result())
                while waiting:
                    self.advance(waiting.popleft().result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def advance(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)

    def pieces(self, shard: Shard, sources: _Sources, out: Target) -> Iterator[Callable[[], int]]:
        """The work on a shard in the order of its bytes; each piece returns how many it wrote."""
        outputs = deque(shard.outputs)
        while outputs:
            output = outputs.popleft()
            if not output.is_copy:
                yield from self.computed(output, sources, out)
                continue
            source = output.source
            assert isinstance(source, Entry)
            end = source.begin + output.nbytes
            while outputs and _follows(outputs[0], source.file, end):
                end += outputs.popleft().nbytes
            for at in range(source.begin, end, COPY):
                yield _Copy(
                    source=sources.open(source.file),
                    target=out,
                    begin=at,
                    to=output.begin + at - source.begin,
                    nbytes=min(COPY, end - at),
                )

    def computed(
        self, output: Output, sources: _Sources, out: Target
    ) -> Iterator[Callable[[], int]]:
        wide = np.dtype(np.float64)
        is_wide = output.dtype == wide or (output.source and output.source.dtype == wide)
        arithmetic = Arithmetic(
            output.change or Change(), output.columns, wide if is_wide else np.dtype(np.float32)
        )
        work = _Tensor(
            output=output,
            arithmetic=arithmetic,
            source=sources.open(output.source.file) if isinstance(output.source, Entry) else None,
            target=out,
            stream=self,
        )
        rows = output.nbytes // output.dtype.itemsize // max(output.columns, 1)
        step = max(1, PIECE // max(output.columns, 1))
        if output.change is not None and output.change.norms_columns:
            arithmetic.measure(rows, step, work.original)
        for begin in range(0, rows, step):
            yield _Piece(tensor=work, begin=begin, end=min(begin + step, rows))


def _follows(output: Output, file: Path, end: int) -> bool:
    """Whether an output is a copy of what stands at that place of the file."""
    return (
        output.is_copy
        and isinstance(output.source, Entry)
        and output.source.file == file
        and output.source.begin == end
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Tensor:
    """One tensor under change."""

    output: Output
    arithmetic: Arithmetic
    source: Source | None
    target: Target
    stream: Stream

    def original(self, begin: int, end: int) -> Array:
        """Rows of the original, in the arithmetic's precision: [end - begin, columns]."""
        columns, work = self.output.columns, self.arithmetic.dtype
        if self.output.source is None:
            return np.zeros((end - begin, columns), work)
        return self.stored(begin, end).reshape(-1, columns).astype(work)

    def stored(self, begin: int, end: int) -> Array:
        """The same as they are stored, or dequantised, flat; valid until the next call."""
        entry = self.output.source
        if not isinstance(entry, Entry):
            assert entry is not None
            return entry.read(begin, end).reshape(-1)
        assert self.source is not None
        count = (end - begin) * self.output.columns
        raw = self.stream_buffer("raw", count, entry.dtype)
        at = entry.begin + begin * self.output.columns * entry.dtype.itemsize
        self.source.read(raw.view(np.uint8).data, at)
        return raw

    def stream_buffer(self, kind: str, count: int, dtype: np.dtype[np.generic]) -> Array:
        """This thread's memory for `count` values; taken again by the next piece."""
        held = self.stream.scratch.__dict__
        need = count * dtype.itemsize
        if kind not in held or len(held[kind]) < need:
            held[kind] = np.empty(need, np.uint8)
        buffer: Array = held[kind][:need].view(dtype)
        return buffer


@dataclass(slots=True, kw_only=True, eq=False)
class _Piece:
    """Some rows of a tensor: read, changed block by block, rounded once, written."""

    tensor: _Tensor
    begin: int
    end: int

    def __call__(self) -> int:
        tensor, work = self.tensor, self.tensor.arithmetic.dtype
        output, columns = tensor.output, tensor.output.columns
        count = (self.end - self.begin) * columns
        result = tensor.stream_buffer("result", count, output.dtype)
        stored = tensor.stored(self.begin, self.end) if output.source is not None else None
        step = max(1, BLOCK // columns) * columns
        for low in range(0, count, step):
            high = min(low + step, count)
            block = tensor.stream_buffer("block", high - low, work)
            block[...] = 0 if stored is None else stored[low:high]
            matrix = block.reshape(-1, columns)
            scratch = tensor.stream_buffer("scratch", high - low, work)
            tensor.arithmetic.apply(matrix, self.begin + low // columns, scratch)
            with np.errstate(over="ignore", invalid="ignore"):
                result[low:high] = block
            name, faults = output.name, tensor.stream.faults
            if name not in faults and (why := fault(block, result[low:high])):
                faults[name] = why
        at = output.begin + self.begin * columns * output.dtype.itemsize
        tensor.target.write(result.view(np.uint8).data, at)
        return result.nbytes


def fault(values: Array, stored: Array) -> str:
    """Why values cannot be stored as they were just rounded; empty where all are finite."""
    if _finite(stored):
        return ""
    if not np.isfinite(values).all():
        return "NaN or infinity"
    largest = float(np.abs(values).max())
    return f"{largest:.6g} is beyond what {stored.dtype.name} can hold"


_EXPONENTS = {"float16": (np.uint16, 0x7C00), "bfloat16": (np.uint16, 0x7F80)}


def _finite(values: Array) -> bool:
    """Whether all are finite; of two-byte floats, which numpy converts slowly, by the exponent."""
    if values.dtype.name in _EXPONENTS:
        kind, mask = _EXPONENTS[values.dtype.name]
        return bool(((values.view(kind) & mask) != mask).all())
    return bool(np.isfinite(values).all())


@dataclass(slots=True, kw_only=True, eq=False)
class _Copy:
    """Bytes that stay, copied by the system where it can."""

    source: Source
    target: Target
    begin: int
    to: int
    nbytes: int

    def __call__(self) -> int:
        self.target.copy(self.source, self.begin, self.to, self.nbytes)
        return self.nbytes


class _Sources(ExitStack):
    """Open source files by path, closed together."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Path, Source] = {}

    def open(self, path: Path) -> Source:
        if path not in self._open:
            self._open[path] = self.enter_context(closing(Source(path)))
        return self._open[path]
