"""ONNX Runtime adapters (.onnx_adapter): a flatbuffer of named tensors.

The file says no rank, alpha or scale: A is [in, r], B is [r, out], and B holds the scale already.
Names are the graph's inputs; here those of Olive, ``<module>.lora_A.weight``. Experts have an axis
in front, as the inputs of our own graph; an embedding has PEFT's ``<module>.lora_embedding_A``
[vocabulary, r] and ``_B`` [r, hidden]; where the head is tied to it and changes too, ``lm_head``
has the same factors, exchanged. Layout from
onnxruntime/lora/adapter_format/adapter_schema.fbs: table Adapter {format_version, adapter_version,
model_version: int; parameters: [Parameter]}, table Parameter {name: string; dims: [int64];
data_type: int32; raw_data: [ubyte] aligned to 8}. Read here and not by onnxruntime, so that every
offset and length is checked, and equal adapters are written as equal bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta, Site
from lorakit.architectures import HEAD, Decoder
from lorakit.errors import FormatError, ParameterError, SourceError, UnsupportedError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import load, open_regular
from lorakit.formats.express import (
    Fault,
    bias_fault,
    delta_fault,
    invocation_fault,
    magnitude_fault,
    replacement_fault,
    require_expressible,
    whole_fault,
)
from lorakit.formats.folder import MAX_NAME, is_name
from lorakit.formats.folding import folded
from lorakit.formats.peft.read import SHOWN
from lorakit.formats.readback import as_dtype, require_same

IDENTIFIER = b"TORT"
VERSION = 1
MAX_PARAMETERS = 40_000  # which are read within a second
MAX_SIZE = (1 << 31) - 1  # bytes: flatbuffers have 32-bit signed offsets
END_A, END_B = ".lora_A.weight", ".lora_B.weight"
TABLE_A, TABLE_B = ".lora_embedding_A", ".lora_embedding_B"
ENDS = {END_A: (Site.LINEAR, "A"), END_B: (Site.LINEAR, "B"),
        TABLE_A: (Site.INPUT, "A"), TABLE_B: (Site.INPUT, "B")}  # fmt: skip
DTYPES = {  # onnx.TensorProto.DataType
    1: np.dtype("<f4"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    16: np.dtype(ml_dtypes.bfloat16),
}
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def is_ort(path: Path) -> bool:
    """Whether a file carries ONNX Runtime's identifier for adapters."""
    try:
        with open_regular(path) as file:
            return file.read(8)[4:] == IDENTIFIER
    except (OSError, SourceError):
        return False


def read_ort(path: Path) -> Adapter:
    """The adapter in an .onnx_adapter file with Olive's names; its scale is 1, in B already.

    Raises SourceError (no such file), FormatError (broken, or parts that contradict each other)
    and UnsupportedError (names of another kind).
    """
    halves: dict[tuple[str, Site], dict[str, Array]] = {}
    for name, array in read_parameters(path).items():
        end = next((end for end in ENDS if name.endswith(end)), "")
        module = name.removesuffix(end)
        if not end or any(p in ("", "..") or "/" in p or "\\" in p for p in module.split(".")):
            raise UnsupportedError(
                f"{path} names a graph input {name!r:.120}, no part of a LoRA layer",
                hint=f"expected <module>{END_A} and <module>{END_B}, of an embedding "
                f"<module>{TABLE_A} and <module>{TABLE_B}",
            )
        site, half = ENDS[end]
        halves.setdefault((module, site), {})[half] = array
    faults = [
        fault for (module, site), pair in halves.items() for fault in _faults(module, site, pair)
    ]
    if faults or not halves:
        raise FormatError(
            f"the ONNX Runtime adapter {path} does not agree with itself",
            items=faults[:SHOWN] or ["no tensor at all: the adapter does nothing"],
        )
    deltas = {
        key: Delta(
            module=key[0], a=_turned(pair["A"]), b=_turned(pair["B"]), scale=1.0, site=key[1]
        )
        for key, pair in halves.items()
    }
    return Adapter(deltas=_tied(deltas), metadata={"format": "ort"})


def _turned(array: Array) -> Array:
    """A matrix, or each of a stack of them, transposed."""
    return array.swapaxes(-1, -2)


def _tied(deltas: dict[tuple[str, Site], Delta]) -> tuple[Delta, ...]:
    """An embedding whose head has the same factors, exchanged, is one delta on both sides."""
    head = deltas.get((HEAD, Site.LINEAR))
    tables = [delta for delta in deltas.values() if delta.site is Site.INPUT]
    if head is None or len(tables) != 1:
        return tuple(deltas.values())
    (table,) = tables
    if not (np.array_equal(head.a, table.b.T) and np.array_equal(head.b, table.a.T)):
        return tuple(deltas.values())
    rest = [delta for delta in deltas.values() if delta is not head and delta is not table]
    return (*rest, replace(table, site=Site.BOTH))


def _faults(module: str, site: Site, pair: dict[str, Array]) -> list[str]:
    if len(pair) != 2:
        return [f"{module}: has only {next(iter(pair))} of its two factors"]
    a, b = pair["A"], pair["B"]
    axes = (2, 3) if site is Site.LINEAR else (2,)
    agree = a.ndim == b.ndim and a.shape[:-2] == b.shape[:-2] and a.shape[-1:] == b.shape[-2:-1]
    if a.ndim not in axes or not agree or 0 in (*a.shape, *b.shape):
        return [
            f"{module}: A {list(a.shape)} and B {list(b.shape)}, expected [in, r], [r, out]"
            + (", with an axis for experts in front or without" if site is Site.LINEAR else "")
        ]
    return []


def read_parameters(path: Path) -> dict[str, Array]:
    """Every named tensor of the file, mapped; errors as in `read_ort`."""
    try:
        data = load(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if not 16 <= len(data) <= MAX_SIZE:
        raise FormatError(f"{path} has {len(data)} bytes, which no .onnx_adapter has")
    try:
        return _Buffer(data).parameters()
    except (struct.error, ValueError) as error:
        raise FormatError(f"{path} is not a valid .onnx_adapter: {error}") from error


class _Buffer:
    """A flatbuffer over mapped bytes; ValueError or struct.error where it points outside."""

    def __init__(self, data: Array) -> None:
        self.data = data
        self.claimed = 0  # bytes of all tensors so far

    def number(self, layout: str, at: int) -> int:
        width = struct.calcsize(layout)
        return int(struct.unpack(layout, self.span(at, width).tobytes())[0])

    def span(self, at: int, length: int) -> Array:
        if at < 0 or length < 0 or at + length > len(self.data):
            raise ValueError(f"{length} bytes at {at} lie outside the file")
        return self.data[at : at + length]

    def follow(self, at: int) -> int:
        return at + self.number("<I", at)

    def field(self, table: int, index: int) -> int | None:
        """Where a table keeps its field, or None where it has its default."""
        vtable = table - self.number("<i", table)
        slot = 4 + 2 * index
        if slot + 2 > self.number("<H", vtable):
            return None
        offset = self.number("<H", vtable + slot)
        return table + offset if offset else None

    def vector(self, table: int, index: int, width: int, what: str) -> tuple[int, int]:
        """Start and count of a vector of elements of `width` bytes."""
        at = self.field(table, index)
        if at is None:
            raise ValueError(f"{what} is missing")
        start = self.follow(at)
        count = self.number("<I", start)
        self.span(start + 4, count * width)
        return start + 4, count

    def parameters(self) -> dict[str, Array]:
        if self.span(4, 4).tobytes() != IDENTIFIER:
            raise ValueError(f"no {IDENTIFIER.decode()} at byte 4")
        root = self.follow(0)
        version = self.field(root, 0)
        if version is None or self.number("<i", version) != VERSION:
            raise ValueError(f"format version is not {VERSION}")
        start, count = self.vector(root, 3, 4, "the list of parameters")
        if count > MAX_PARAMETERS:
            raise ValueError(f"{count} parameters; {MAX_PARAMETERS} is the limit")
        found: dict[str, Array] = {}
        for index in range(count):
            name, array = self.parameter(self.follow(start + 4 * index))
            if name in found:
                raise ValueError(f"{name!r:.120} comes twice")
            found[name] = array
        return found

    def parameter(self, table: int) -> tuple[str, Array]:
        at, length = self.vector(table, 0, 1, "a name")
        if length > MAX_NAME:
            raise ValueError(f"a name of {length} bytes; {MAX_NAME} is the limit")
        name = self.span(at, length).tobytes().decode()
        if not is_name(name):
            raise ValueError(f"{name!a:.120} is not a tensor name")
        at, dims = self.vector(table, 1, 8, f"{name}: shape")
        if dims > 8:
            raise ValueError(f"{name}: {dims} dimensions")
        shape = tuple(self.number("<q", at + 8 * index) for index in range(dims))
        kind = self.field(table, 2)
        dtype = DTYPES.get(self.number("<i", kind) if kind is not None else 0)
        if dtype is None:
            raise ValueError(f"{name}: its data type is not floating point")
        at, length = self.vector(table, 3, 1, f"{name}: data")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != length:
            raise ValueError(f"{name}: {length} bytes do not make {list(shape)} of {dtype.name}")
        if at % dtype.itemsize:
            raise ValueError(f"{name}: its data at byte {at} is not aligned")
        self.claimed += length
        if self.claimed > len(self.data):
            raise ValueError(f"{name}: its data lies over that of others")
        return name, self.span(at, length).view(dtype).reshape(shape)


def write_ort(
    adapter: Adapter,
    path: Path,
    *,
    decoder: Decoder | None = None,
    dtype: npt.DTypeLike | None = None,
) -> None:
    """Write an .onnx_adapter with Olive's names; scales are folded into B in float32.

    decoder: the base, without which no embedding and no experts are written. Equal arguments give
    equal bytes; the file is read back before it is put in place. Raises UnsupportedError listing
    every part that the format cannot express, FormatError for values that the dtype cannot hold,
    ParameterError where there is a file already, WriteError where the disk refuses.
    """
    require_expressible(cannot_express(adapter, decoder), "an .onnx_adapter")
    if path.exists():
        raise ParameterError(f"{path} exists", hint="choose a new file")
    stored = as_dtype(folded(adapter), dtype)
    content = _serialize(_tensors(stored))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            path, content, lambda file: require_same(stored, read_ort(file), "an .onnx_adapter")
        )
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def cannot_express(adapter: Adapter, decoder: Decoder | None = None) -> list[Fault]:
    """Everything that an .onnx_adapter cannot say. Which inputs a graph has for embeddings and
    experts follows from the base."""
    faults = [] if adapter.deltas else [whole_fault("no low-rank delta")]
    heads = HEAD in adapter.modules
    for d in adapter.deltas:
        if d.bias is not None:
            faults.append(bias_fault(d, "a bias of B"))
        if reason := _nowhere(d, decoder, heads=heads):
            faults.append(delta_fault(d, reason))
        faults += [
            Fault(item=d.module, reason=f"dtype {array.dtype.name}")
            for array in (d.a, d.b)
            if array.dtype not in NUMBERS
        ]
    faults += [replacement_fault(r, r.kind) for r in adapter.replacements]
    faults += [magnitude_fault(m, "a DoRA magnitude") for m in adapter.magnitudes]
    if adapter.invocation_tokens:
        faults.append(invocation_fault("an .onnx_adapter holds tensors alone"))
    return faults


def _nowhere(delta: Delta, decoder: Decoder | None, *, heads: bool) -> str:
    """Why there are no inputs for a delta; or ""."""
    table = delta.site is not Site.LINEAR
    if decoder is None and (table or delta.a.ndim == 3):
        what = "an embedding" if table else "experts"
        return f"{what}, for which inputs depend on the base; name the base (--base)"
    if delta.site is Site.OUTPUT:
        return "an embedding as the head alone; a delta of lm_head says that"
    if decoder is not None and table and delta.module != decoder.embedding:
        return "an embedding of positions, for which no graph has inputs"
    if delta.site is Site.BOTH and heads:
        return "an embedding on both sides, beside another delta of lm_head"
    return ""


def _tensors(adapter: Adapter) -> dict[str, Array]:
    tensors = {}
    for d in adapter.deltas:
        a, b = _turned(d.a), _turned(d.b)
        ends = (END_A, END_B) if d.site is Site.LINEAR else (TABLE_A, TABLE_B)
        tensors[d.module + ends[0]], tensors[d.module + ends[1]] = a, b
        if d.site is Site.BOTH:
            tensors[HEAD + END_A], tensors[HEAD + END_B] = d.b, d.a
    return tensors


def _serialize(tensors: dict[str, Array]) -> bytes:
    """The flatbuffer, forwards: root, then each parameter's table, name, shape and data."""
    names = sorted(tensors)
    # root vtable (12 bytes at 8), root table at 20: version 1 and the vector of parameters
    out = bytearray(struct.pack("<I4sHHHHHHiiII", 20, IDENTIFIER, 12, 12, 4, 0, 0, 8, 12, VERSION,
                                4, len(names)))  # fmt: skip
    slots = len(out)
    out += bytes(4 * len(names))
    for index, name in enumerate(names):
        array, text = tensors[name], name.encode()
        _align(out, 4)
        vtable = len(out)
        out += struct.pack("<HHHHHH", 12, 20, 4, 8, 12, 16)
        table = len(out)
        struct.pack_into("<I", out, slots + 4 * index, table - slots - 4 * index)
        out += struct.pack("<iIIiI", table - vtable, 0, 0, NUMBERS[array.dtype], 0)
        _refer(out, table + 4, len(text), text + b"\0", 4)
        _refer(out, table + 8, array.ndim, struct.pack(f"<{array.ndim}q", *array.shape), 8)
        _refer(out, table + 16, array.nbytes, array.tobytes(), 8)
    if len(out) > MAX_SIZE:
        raise FormatError(f"{len(out)} bytes; an .onnx_adapter holds at most {MAX_SIZE}")
    return bytes(out)


def _align(out: bytearray, to: int, ahead: int = 0) -> None:
    out += bytes(-(len(out) + ahead) % to)


def _refer(out: bytearray, slot: int, count: int, content: bytes, align: int) -> None:
    """Append a vector whose elements are aligned, and point the slot to it."""
    _align(out, align, 4)
    struct.pack_into("<I", out, slot, len(out) - slot)
    out += struct.pack("<I", count) + content
