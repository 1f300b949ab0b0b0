"""The vocabulary's two ends in a graph: token ids to hidden states, hidden states to logits.

Where both are tied they read one tensor, which is stored once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.graph.blocks import KINDS
from lorakit.graph.even import Floats, even, uneven
from lorakit.graph.int8 import int8_columns, int8_product, quantize_rows
from lorakit.graph.web_linear import beyond_float16
from lorakit.graph.weights import parts
from lorakit.graph.writer import Writer


class Table(Protocol):
    """One row of hidden size for each token."""

    def look_up(
        self, writer: Writer, ids: str, name: str, scale: float, dtype: type[np.floating]
    ) -> str:
        """Rows of tokens [batch, new] times a scale, [batch, new, hidden], called `name`."""
        ...

    def project(self, writer: Writer, x: str, name: str, dtype: type[np.floating]) -> str:
        """Hidden states [batch, kept, hidden] times every row: [batch, kept, vocabulary]."""
        ...


@dataclass(frozen=True, slots=True)
class FloatTable:
    """weight [vocabulary, hidden], stored in the dtype of hidden states."""

    name: str
    weight: Array

    def look_up(
        self, writer: Writer, ids: str, name: str, scale: float, dtype: type[np.floating]
    ) -> str:
        found = writer.node("Gather", [self._stored(writer, dtype), ids], f"{name}.rows", axis=0)
        factor = writer.weight(f"{name}.scale", np.array(scale, dtype))
        return writer.node("Mul", [found, factor], name)

    def project(self, writer: Writer, x: str, name: str, dtype: type[np.floating]) -> str:
        vocabulary, hidden = self.weight.shape
        flat = writer.node("Reshape", [x, writer.shape(-1, hidden)], f"{name}.flat")
        y = writer.node("Gemm", [flat, self._stored(writer, dtype)], f"{name}.flat.y", transB=1)
        rows = writer.node("Shape", [x], f"{name}.rows", end=2)
        shape = writer.node("Concat", [rows, writer.shape(vocabulary)], f"{name}.shape", axis=0)
        return writer.node("Reshape", [y, shape], name)

    def _stored(self, writer: Writer, dtype: type[np.floating]) -> str:
        return writer.rows(f"{self.name}.weight", self._parts(dtype))

    def _parts(self, dtype: type[np.floating]) -> Iterator[Array]:
        for rows in parts(self.weight):
            with np.errstate(over="ignore"):
                part = self.weight[rows].astype(dtype)
            if dtype == np.float16 and not np.isfinite(part).all():
                raise beyond_float16(self.name)
            yield part


@dataclass(frozen=True, slots=True)
class Int8Table:
    """weight [vocabulary, hidden], stored as int8 [hidden, vocabulary] with a scale per token.

    divisors: of what the head reads; it is made even, and the lookup undoes that.
    """

    name: str
    weight: Array
    divisors: Floats | None

    def look_up(
        self, writer: Writer, ids: str, name: str, scale: float, dtype: type[np.floating]
    ) -> str:
        w = writer
        codes, scales = self._stored(w)
        columns = w.node("Gather", [codes, ids], f"{name}.columns", axis=1)
        rows = w.node("Transpose", [columns], f"{name}.codes", perm=[1, 2, 0])
        wide = w.node("Cast", [rows], f"{name}.wide", to=TensorProto.FLOAT)
        sizes = w.node("Gather", [scales, ids], f"{name}.sizes", axis=0)
        size = w.node("Unsqueeze", [sizes, w.shape(2)], f"{name}.size")
        found = w.node("Mul", [wide, size], f"{name}.rows")
        if self.divisors is not None:
            found = uneven(w, found, self.divisors, scale)
        else:
            factor = w.weight(f"{name}.scale", np.array(scale, np.float32))
            found = w.node("Mul", [found, factor], f"{name}.scaled")
        return w.node("Cast", [found], name, to=KINDS[dtype])

    def project(self, writer: Writer, x: str, name: str, dtype: type[np.floating]) -> str:
        x = writer.node("Cast", [x], f"{x}.f32", to=TensorProto.FLOAT)
        if self.divisors is not None:
            x = even(writer, x, self.divisors)
        return int8_product(writer, name, quantize_rows(writer, x), *self._stored(writer))

    def _stored(self, writer: Writer) -> tuple[str, str]:
        codes, scales = f"{self.name}.weight.q8", f"{self.name}.weight.scale"
        if not writer.stored(codes):
            values, sizes = int8_columns(self.weight, self.divisors)
            writer.weight(codes, values)
            writer.weight(scales, sizes)
        return codes, scales
