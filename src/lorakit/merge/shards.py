"""The weight files of a checkpoint, as they are and as they will be: which bytes go where.

Of a GGUF file they are not there yet: what it holds becomes one new file.

The order of files, of names in each header and of bytes in each file stays what it was; tensors
that are added come last in the file of the tensor that they belong to.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.base.folder import WEIGHTS
from lorakit.errors import SourceError
from lorakit.files.bounded import open_regular
from lorakit.files.safetensors import DTYPES, MAX_HEADER
from lorakit.merge.change import Change
from lorakit.merge.gguf.weights import Held
from lorakit.merge.plan import Plan

NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored tensor: where its bytes are and what they mean."""

    file: Path
    begin: int  # from the start of the file
    nbytes: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A tensor to be written. source: what it begins as, None for zeros."""

    name: str
    begin: int
    nbytes: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    source: Entry | Held | None
    change: Change | None

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def is_copy(self) -> bool:
        """Whether its bytes are those of its source."""
        unchanged = self.change is None and isinstance(self.source, Entry)
        return unchanged and self.source is not None and self.source.dtype == self.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A weight file to be written: its header, and its tensors in the order of their bytes."""

    name: str
    header: bytes
    size: int
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    raw: bytes  # with its length before it
    entries: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str] | None


def shards(
    files: tuple[Path, ...], plan: Plan, dtype: np.dtype[np.generic] | None
) -> tuple[Shard, ...]:
    """The files to write for these (which Base.open has validated), in their order.

    dtype: what floating-point tensors become; None keeps each one's own.
    """
    headers = {file: _read_header(file) for file in files}
    stored = {
        name: _entry(file, len(header.raw), entry)
        for file, header in headers.items()
        for name, entry in header.entries.items()
    }
    return tuple(_shard(file, headers[file], stored, plan, dtype) for file in files)


def dequantised(
    table: Mapping[str, Held], plan: Plan, dtype: np.dtype[np.generic] | None
) -> tuple[Shard, ...]:
    """The one file to write for what a GGUF file holds, in this order."""
    entries, offset = {}, 0
    for name, held in table.items():
        size = prod(held.shape) * held.dtype.itemsize
        entries[name] = {
            "dtype": NAMES[held.dtype],
            "shape": list(held.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    header = _Header(raw=b"", entries=entries, metadata={"format": "pt"})
    header = replace(header, raw=_encode(header, list(entries), entries))
    return (_shard(Path(WEIGHTS), header, table, plan, dtype),)


def _read_header(path: Path) -> _Header:
    """The header of a file that was found whole when the base was opened."""
    try:
        with open_regular(path) as file:
            length = file.read(8)
            raw = length + file.read(min(struct.unpack("<Q", length)[0], MAX_HEADER))
        entries = json.loads(raw[8:])
        metadata = entries.pop("__metadata__", None)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (struct.error, ValueError, AttributeError, TypeError) as error:
        raise SourceError(f"{path} changed since the base was opened") from error
    return _Header(raw=raw, entries=entries, metadata=metadata)


def _entry(file: Path, start: int, entry: Mapping[str, Any]) -> Entry:
    begin, end = entry["data_offsets"]
    return Entry(
        file=file,
        begin=start + begin,
        nbytes=end - begin,
        dtype=DTYPES[entry["dtype"]],
        shape=tuple(entry["shape"]),
    )


def _shard(
    file: Path,
    header: _Header,
    stored: Mapping[str, Entry] | Mapping[str, Held],
    plan: Plan,
    dtype: np.dtype[np.generic] | None,
) -> Shard:
    names = [
        *header.entries,
        *(n for n, added in plan.added.items() if added.beside in header.entries),
    ]
    order = sorted(header.entries, key=lambda name: header.entries[name]["data_offsets"][0])
    order += names[len(order) :]
    described, offset = {}, 0
    for name in order:
        own = stored.get(name) or stored[plan.added[name].beside]
        shape = plan.added[name].shape if name in plan.added else own.shape
        shape = (plan.rows.get(name, shape[0]), *shape[1:]) if shape else shape
        kind = NAMES[own.dtype]
        if dtype is not None and kind in FLOATS:
            kind = NAMES[dtype]
        size = prod(shape) * DTYPES[kind].itemsize
        described[name] = {
            "dtype": kind,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    raw = header.raw if described == dict(header.entries) else _encode(header, names, described)
    outputs = tuple(_output(name, described[name], len(raw), stored, plan) for name in order)
    return Shard(name=file.name, header=raw, size=len(raw) + offset, outputs=outputs)


def _encode(header: _Header, names: list[str], described: Mapping[str, Any]) -> bytes:
    first = {"__metadata__": header.metadata} if header.metadata is not None else {}
    table = first | {name: described[name] for name in names}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _output(
    name: str,
    described: Mapping[str, Any],
    start: int,
    stored: Mapping[str, Entry] | Mapping[str, Held],
    plan: Plan,
) -> Output:
    begin, end = described["data_offsets"]
    source = plan.sources.get(name, name)
    return Output(
        name=name,
        begin=start + begin,
        nbytes=end - begin,
        dtype=DTYPES[described["dtype"]],
        shape=tuple(described["shape"]),
        source=None if source in plan.rows else stored.get(source),
        change=plan.changes.get(name),
    )
