"""ONNX Runtime adapters: flatbuffers whose offsets, vtables, lengths or types lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from cases import case, sparse

Q = "model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"


class Flat:
    """A flatbuffer written forwards: vtable of the root at 8, root table at 20, parameters."""

    def __init__(self, count: int, *, version: int = 1, identifier: bytes = b"TORT") -> None:
        self.out = bytearray(
            struct.pack("<I4sHHHHHH", 20, identifier, 12, 12, 4, 0, 0, 8)
            + struct.pack("<iiII", 12, version, 4, count)
        )
        self.slots = len(self.out)
        self.out += bytes(4 * count)
        self.tables: list[int] = []

    def align(self, to: int, ahead: int = 0) -> None:
        self.out += bytes(-(len(self.out) + ahead) % to)

    def vector(self, slot: int, count: int, content: bytes, align: int) -> None:
        self.align(align, 4)
        struct.pack_into("<I", self.out, slot, len(self.out) - slot)
        self.out += struct.pack("<I", count) + content

    def put(
        self,
        name: str | bytes,
        shape: tuple[int, ...],
        data: bytes,
        *,
        kind: int = 1,
        length: int | None = None,
        dims: int | None = None,
    ) -> None:
        raw = name if isinstance(name, bytes) else name.encode()
        self.align(4)
        vtable = len(self.out)
        self.out += struct.pack("<HHHHHH", 12, 20, 4, 8, 12, 16)
        table = len(self.out)
        index = len(self.tables)
        self.tables.append(table)
        struct.pack_into("<I", self.out, self.slots + 4 * index, table - self.slots - 4 * index)
        self.out += struct.pack("<iIIiI", table - vtable, 0, 0, kind, 0)
        self.vector(table + 4, len(raw), raw + b"\0", 4)
        packed = struct.pack(f"<{len(shape)}q", *shape)
        self.vector(table + 8, len(shape) if dims is None else dims, packed, 8)
        self.vector(table + 16, len(data) if length is None else length, data, 8)


F = np.ones(32, "<f4").tobytes()
G = np.ones(24, "<f4").tobytes()


def good(first: str | bytes = A, **change: Any) -> Flat:
    flat = Flat(2)
    flat.put(first, change.pop("shape", (8, 4)), change.pop("data", F), **change)
    flat.put(B, (4, 6), G)
    return flat


def write(path: Path, content: bytes | bytearray | Flat) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.out if isinstance(content, Flat) else content)


def patched(path: Path, at: int, layout: str, value: int) -> None:
    flat = good()
    struct.pack_into(layout, flat.out, at, value)
    write(path, flat)


@case("format_unsupported", "unknown kind")
def wrong_identifier(path: Path) -> None:
    patched(path, 4, "<I", 0)


@case("format_invalid", "12 bytes")
def head_alone(path: Path) -> None:
    write(path, good().out[:12])


@case("format_invalid", "outside the file")
def truncated(path: Path) -> None:
    write(path, good().out[:-30])


@case("format_invalid", "outside the file")
def root_outside(path: Path) -> None:
    patched(path, 0, "<I", 0xFFFFFFF0)


@case("format_invalid", "format version")
def root_in_itself(path: Path) -> None:
    patched(path, 0, "<I", 0)


@case("format_invalid", "outside the file")
def vtable_before_the_file(path: Path) -> None:
    patched(path, 20, "<i", 0x7FFFFFFF)


@case("format_invalid", "outside the file")
def vtable_behind_the_file(path: Path) -> None:
    patched(path, 20, "<i", -0x7FFFFFFF)


@case("format_invalid", "missing")
def vtable_too_short(path: Path) -> None:
    patched(path, 8, "<H", 6)


@case("format_invalid", "outside the file")
def field_outside(path: Path) -> None:
    patched(path, 18, "<H", 0xFFFF)


@case("format_invalid", "format version is not 1")
def version_2(path: Path) -> None:
    patched(path, 24, "<i", 2)


@case("format_invalid", "outside the file")
def four_billion_parameters(path: Path) -> None:
    patched(path, 32, "<I", 0xFFFFFFFF)


@case("format_invalid", "limit")
def million_parameters(path: Path) -> None:
    flat = Flat(10**6)
    flat.put(A, (8, 4), F)
    write(path, flat)


@case("format_invalid", "comes twice")
def one_table_for_all(path: Path) -> None:
    """40,000 slots, each pointing to the same table: a small file, much work."""
    flat = Flat(40_000)
    flat.put(A, (8, 4), F)
    at = flat.tables[0]
    for index in range(40_000):
        slot = flat.slots + 4 * index
        struct.pack_into("<I", flat.out, slot, at - slot)
    write(path, flat)


@case("format_invalid", "lies over")
def shared_data(path: Path) -> None:
    """Tensors that all claim the same bytes, which lie behind their tables."""
    flat = Flat(1000)
    for index in range(1000):
        shape = (4, 1 << 18) if index % 2 else (1 << 18, 4)
        flat.put(f"m.{index // 2}.lora_{'AB'[index % 2]}.weight", shape, b"")
    flat.align(8, 4)
    at = len(flat.out)
    flat.out += struct.pack("<I", 4 << 20) + bytes(4 << 20)
    for table in flat.tables:
        struct.pack_into("<I", flat.out, table + 16, at - table - 16)
    write(path, flat)


@case("format_invalid", "not aligned")
def unaligned(path: Path) -> None:
    flat = good()
    slot = flat.tables[0] + 16
    flat.align(4)
    struct.pack_into("<I", flat.out, slot, len(flat.out) + 1 - slot)
    flat.out += b"\0" + struct.pack("<I", len(F)) + F
    write(path, flat)


@case("format_invalid", "do not make")
def negative_dimension(path: Path) -> None:
    write(path, good(shape=(-8, -4)))


@case("format_invalid", "do not make")
def product_that_wraps(path: Path) -> None:
    write(path, good(shape=(1 << 62, 1 << 62)))


@case("format_invalid", "expected [in, r]")
def dimension_0(path: Path) -> None:
    write(path, good(shape=(0, 4), data=b""))


@case("format_invalid", "dimensions")
def thousand_dimensions(path: Path) -> None:
    write(path, good(shape=(1,) * 1000))


@case("format_invalid", "outside the file")
def four_billion_dimensions(path: Path) -> None:
    write(path, good(dims=0xFFFFFFFF))


@case("format_invalid", "outside the file")
def data_of_4_gb(path: Path) -> None:
    write(path, good(length=0xFFFFFFFF))


@case("format_invalid", "not floating point")
def integers(path: Path) -> None:
    write(path, good(kind=7))


@case("format_invalid", "not floating point")
def unknown_type(path: Path) -> None:
    write(path, good(kind=-1))


@case("format_invalid", "limit")
def name_of_10_mb(path: Path) -> None:
    write(path, good("a" * (10 << 20)))


@case("format_invalid", "not a tensor name")
def control_characters(path: Path) -> None:
    write(path, good(f"\x1b[31m{A}"))


@case("format_invalid", "not a tensor name")
def homograph(path: Path) -> None:
    write(path, good(A.replace("o", "\u043e")))


@case("format_invalid", "decode")
def name_not_utf8(path: Path) -> None:
    write(path, good(b"\xff\xfe.lora_A.weight"))


@case("format_unsupported", "..")
def climbing_name(path: Path) -> None:
    write(path, good("model.../../../etc/passwd.lora_A.weight"))


@case("format_unsupported", "'input_ids'")
def another_input(path: Path) -> None:
    write(path, good("input_ids"))


@case("format_invalid", "comes twice")
def duplicate(path: Path) -> None:
    write(path, good(B))


@case("format_invalid", "has only")
def half_pair(path: Path) -> None:
    flat = Flat(1)
    flat.put(A, (8, 4), F)
    write(path, flat)


@case("format_invalid", "expected [in, r]")
def ranks_disagree(path: Path) -> None:
    write(path, good(shape=(4, 8)))


@case("format_invalid", "no tensor at all")
def no_parameters(path: Path) -> None:
    write(path, Flat(0))


@case("format_invalid", "bytes, which no .onnx_adapter has")
def terabyte(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sparse(path, 1 << 40, bytes(good().out))


@case("adapter_mismatch", "NaN or infinity", opens="fit")
def values_nan(path: Path) -> None:
    flat = Flat(2)
    flat.put(A, (96, 4), np.full(384, np.nan, "<f4").tobytes())
    flat.put(B, (4, 96), np.ones(384, "<f4").tobytes())
    write(path, flat)
