"""Linears in the forms that onnxruntime-web runs fast, and whose hidden states may be float16."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import BaseModelError
from lorakit.graph.blockwise import NARROW, WIDE, block_size, packed4, packed8, product
from lorakit.graph.even import even, rotation
from lorakit.graph.quantize import Form, Sight
from lorakit.graph.weights import transposed
from lorakit.graph.writer import Writer


def float16(writer: Writer, module: str, x: str, weight: Array) -> str:
    """Weights and products in float16. Raises BaseModelError for weights beyond it."""
    return _float(writer, module, x, weight, np.float16)


def blocks4(dtype: type[np.floating], sight: Sight, wide: Collection[str]) -> Form:
    """4-bit weights in blocks, 8 bits for `wide` modules, times x as it is, in a dtype.

    Where a weight's inputs cannot be cut into blocks, it stays in the dtype.
    """

    def form(writer: Writer, module: str, x: str, weight: Array) -> str:
        narrow = module not in wide
        block = block_size(weight.shape[1], NARROW if narrow else WIDE)
        if block is None:
            return _float(writer, module, x, weight, dtype)
        if not narrow:
            packed, bits = packed8(weight, block), 8
        else:
            seen, bits = sight(x), 4
            packed = packed4(weight, block, seen)
            if seen is not None:
                x = even(writer, x, seen.divisors, dtype)
                packed = replace(packed, scales=packed.scales * _shrunk(dtype, weight.shape[1]))
        return product(
            writer, module, x, weight.shape, packed, bits=bits, rounded=False, dtype=dtype
        )

    return form


def _shrunk(dtype: type[np.floating], inputs: int) -> np.floating:
    """What `even` divides rows by in float16, so that their sums stay within it."""
    return np.float32(len(rotation(inputs)) if dtype == np.float16 else 1)


def _float(writer: Writer, module: str, x: str, weight: Array, dtype: type[np.floating]) -> str:
    with np.errstate(over="ignore"):
        array = transposed(weight, dtype)
    if dtype == np.float16 and not np.isfinite(array).all():
        raise beyond_float16(module)
    return writer.node("MatMul", [x, writer.weight(f"{module}.weight", array)], f"{module}.xW")


def beyond_float16(name: str) -> BaseModelError:
    return BaseModelError(
        f"{name} has values that float16 does not hold",
        hint="export it with quantize none, q8 or q4",
    )
