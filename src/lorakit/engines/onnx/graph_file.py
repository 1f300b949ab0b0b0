"""A graph of an export, looked at before onnxruntime opens it.

onnxruntime opens the files that a graph names; here it is seen to that these lie beside it and hold
all that it says. Of a graph with several adapters in it those are read as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from lorakit.adapter import Adapter, Array, Delta
from lorakit.base.exported import FOLDER, Exported
from lorakit.errors import FormatError, SourceError
from lorakit.files.bounded import load, read_bounded
from lorakit.formats.folder import member
from lorakit.formats.web import END_A, END_B

MAX_GRAPH = 64 << 20  # bytes of a graph without its weights
DTYPES: tuple[tuple[int, type[np.floating]], ...] = (
    (TensorProto.FLOAT, np.float32),
    (TensorProto.FLOAT16, np.float16),
)
Content = tuple[onnx.ModelProto, bytes]


def read_graph(exported: Exported) -> Content:
    """A graph and its bytes; its weights stay where they are.

    Raises FormatError for what is no graph, is larger than graphs are, is a link out of the folder,
    or names weights that are not beside it; SourceError where a file is missing or unreadable.
    """
    path = exported.graph
    try:
        content = read_bounded(_present(exported.folder, path.name), MAX_GRAPH)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if content is None:
        raise FormatError(f"{path} is larger than {MAX_GRAPH} bytes, which no graph is")
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's, of which each version has its own
        raise FormatError(f"{path} is no ONNX file, or it is damaged") from error
    _require_whole(model, exported.folder, path)
    return model, content


def _present(folder: Path, name: str) -> Path:
    found = member(folder, f"{FOLDER}/{name}")
    if found is None:
        raise SourceError(f"{folder} has no {FOLDER}/{name}")
    return found


def _require_whole(model: onnx.ModelProto, folder: Path, path: Path) -> None:
    """Weights are in one file beside the graph, and each of them within it."""
    own, faults, size = f"{path.name}_data", [], None
    for tensor in _tensors(model.graph, model.functions):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        said = {each.key: each.value for each in tensor.external_data}
        if said.get("location") != own:
            faults.append(f"{tensor.name} is in {said.get('location')!r:.80}, not in {own}")
            continue
        size = _present(folder, own).stat().st_size if size is None else size
        begin, length = (_number(said.get(key)) for key in ("offset", "length"))
        if begin is None or length is None or begin + length > size:
            faults.append(f"{tensor.name} ends beyond the {size} bytes of {own}")
    if faults:
        raise FormatError(f"{path} is damaged, or not whole", items=faults[:20])


def _tensors(
    graph: onnx.GraphProto, functions: Iterable[onnx.FunctionProto]
) -> Iterator[TensorProto]:
    """All of a graph and its functions, wherever they are held."""
    nodes = [*graph.node, *(node for function in functions for node in function.node)]
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (each for node in nodes for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            if inner.ByteSize():
                yield from _tensors(inner, ())


def _number(text: str | None) -> int | None:
    """A count of bytes; as ONNX writes it, decimal digits."""
    return int(text) if text and len(text) < 20 and text.isascii() and text.isdigit() else None


def built_in(exported: Exported) -> dict[str, Adapter]:
    """The adapters of a composed export, by name; their scales are in their values.

    Raises what `read_graph` raises, and FormatError where the graph holds others than its record
    names.
    """
    model, _ = read_graph(exported)
    data = load(_present(exported.folder, f"{exported.graph.name}_data"))
    held = {t.name: t for t in model.graph.initializer if t.name.endswith((END_A, END_B))}
    modules = [name.removesuffix(END_A) for name in held if name.endswith(END_A)]
    found = {m: tuple(_values(held.get(m + end), data) for end in (END_A, END_B)) for m in modules}
    counts = {len(part) for pair in found.values() for part in pair}
    if counts != {len(exported.names) + 1}:
        raise FormatError(
            f"{exported.graph} does not hold the adapters that the export's record names",
            items=exported.names[:20],
        )
    return {
        name: Adapter(deltas=tuple(_deltas(found, number)))
        for number, name in enumerate(exported.names, 1)
    }


def _values(tensor: TensorProto | None, data: Array) -> Array:
    """A tensor of three axes, of a graph that was found whole."""
    dtypes = [dtype for kind, dtype in DTYPES if tensor and tensor.data_type == kind]
    if tensor is None or not dtypes or len(tensor.dims) != 3:
        raise FormatError("an adapter in the graph lacks a part, or its values are no floats")
    said = {each.key: each.value for each in tensor.external_data}
    begin, length = int(said.get("offset", 0)), int(said.get("length", 0))
    raw = data[begin : begin + length].tobytes() if said else tensor.raw_data
    try:
        return np.frombuffer(raw, dtypes[0]).reshape(tensor.dims)
    except ValueError as error:
        raise FormatError(f"{tensor.name} has other values than its shape says") from error


def _deltas(found: Mapping[str, Sequence[Array]], number: int) -> Iterator[Delta]:
    """What one of the adapters changes, without the zeros that fill ranks up."""
    for module, (first, second) in found.items():
        a, b = first[number].T, second[number].T
        used = np.flatnonzero(a.any(axis=1))
        if len(used):
            rank = int(used[-1]) + 1
            yield Delta(module=module, a=a[:rank], b=b[:, :rank], scale=1.0)
