"""GGUF files written, the same way every time: typed values, then tensors by name.

As read in the format's own description (ggml-org/ggml, docs/gguf.md), version 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import BinaryIO

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import FormatError
from lorakit.files.gguf import ALIGNMENT, MAGIC, MAX_DIMENSIONS, VERSION, Value
from lorakit.files.gguf_types import (
    ARRAY,
    LENGTH,
    PLAIN,
    STORED,
    TYPE_NUMBERS,
    VALUE_NUMBERS,
    padded,
    stored_size,
)

_WRITTEN = {dtype: name for name, dtype in PLAIN.items()}


def write_gguf_file(
    file: BinaryIO, values: Mapping[str, Value], tensors: Mapping[str, Array]
) -> None:
    """Write values in their order and tensors by name: equal arguments give equal bytes.

    Tensors are float32, float16 or bfloat16. Raises FormatError for another dtype, no values in a
    tensor, or too many dimensions.
    """
    order = sorted(tensors)
    infos = []
    for name in order:
        array = tensors[name]
        if array.dtype not in _WRITTEN or not array.size or not 1 <= array.ndim <= MAX_DIMENSIONS:
            raise FormatError(f"{name}: GGUF cannot hold {array.dtype} of {list(array.shape)}")
        infos.append((name, _WRITTEN[array.dtype], array.shape))
    file.write(gguf_head({key: packed(value) for key, value in values.items()}, infos))
    for name in order:
        array = tensors[name]
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.write(bytes(-array.nbytes % ALIGNMENT))


def gguf_head(
    values: Mapping[str, bytes | memoryview],
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    alignment: int = ALIGNMENT,
) -> bytes:
    """What precedes the tensors: packed values by key, then each tensor's name, type and shape.

    The tensors follow in this order, each filled up to a multiple of the alignment.
    """
    head: list[bytes | memoryview] = [MAGIC]
    head.append(struct.pack("<IQQ", VERSION, len(tensors), len(values)))
    for key, value in values.items():
        head += [_text(key), value]
    offset = 0
    for name, kind, shape in tensors:
        head += [_text(name), struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))]
        head.append(struct.pack("<IQ", TYPE_NUMBERS[kind], offset))
        offset = padded(offset + stored_size(kind, math.prod(shape)), alignment)
    content = b"".join(head)
    return content + bytes(-len(content) % alignment)


def packed(value: Value) -> bytes:
    """A value's type and content, as a file stores them."""
    number = struct.pack("<I", VALUE_NUMBERS[value.kind])
    items = value.data if value.array else [value.data]
    if value.kind == "str":
        raws = [item.encode() for item in items]  # hundreds of thousands
        body = b"".join(
            chain.from_iterable(zip(map(LENGTH.pack, map(len, raws)), raws, strict=True))
        )
    else:
        body = np.asarray(items, STORED[value.kind]).tobytes()
    if not value.array:
        return number + body
    return struct.pack("<I", ARRAY) + number + struct.pack("<Q", len(items)) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return LENGTH.pack(len(raw)) + raw
