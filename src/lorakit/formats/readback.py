"""What a writer wrote is read back, compared with what it was given, and only then published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, in_order
from lorakit.check import LOST, lost
from lorakit.errors import FormatError, UnsupportedError

SHOWN = 20
Dtype = Literal["f32", "f16", "bf16"]
DTYPES: dict[str, np.dtype[np.generic]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


def require_same(wanted: Adapter, found: Adapter, format_: str) -> None:
    """Raise UnsupportedError that lists every part in which two adapters differ.

    Equal means equal digests: the same parts, scales at float32, values as stored.
    """
    before, after = dict(_outline(wanted)), dict(_outline(found))
    lost = [
        name
        for name in in_order(before.keys() | after.keys())
        if name not in before or name not in after or not _equal(before[name], after[name])
    ]
    if lost:
        raise UnsupportedError(
            f"{format_} would read this adapter differently, so it was not written",
            items=lost[:SHOWN],
            hint="this is a fault of the writer, or names collide with the format's own",
        )


def _outline(adapter: Adapter) -> Iterator[tuple[str, tuple[Array | None, ...]]]:
    """Each part by what identifies it, scales included, with the arrays that it holds."""
    for d in adapter.deltas:
        bias = None if d.bias is None or not np.any(d.bias) else d.bias
        yield f"{d.module} {d.site} x {np.float32(d.scale)!r}", (d.a, d.b, bias)
    for r in adapter.replacements:
        yield f"{r.name} {r.kind} {r.site or ''}".rstrip(), (r.value, r.rows)
    for m in adapter.magnitudes:
        yield f"{m.module} magnitude", (m.value,)
    yield f"invocation tokens {adapter.invocation_tokens}", ()


def _equal(wanted: tuple[Array | None, ...], found: tuple[Array | None, ...]) -> bool:
    return all(
        a is b or (a is not None and b is not None and _same(a, b))
        for a, b in zip(wanted, found, strict=True)
    )


def _same(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype != b.dtype and a.dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            a, b = a.astype(np.float32), b.astype(np.float32)
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind not in "iu"))


def as_dtype(adapter: Adapter, dtype: npt.DTypeLike | None) -> Adapter:
    """The adapter with its floating point in another dtype, "f32", "f16" and "bf16" included;
    itself where that is None.

    Raises FormatError naming every array with a finite value that the dtype cannot hold, or whose
    values it rounds away.
    """
    if dtype is None:
        return adapter
    target = np.dtype(DTYPES.get(str(dtype), dtype))
    large: list[str] = []
    small: list[str] = []

    def stored(name: str, array: Array) -> Array:
        with np.errstate(over="ignore"):
            converted = array.astype(target, copy=False)
        if converted is not array and _overflows(array, converted):
            large.append(name)
        elif converted is not array and lost(array, target) > LOST:
            small.append(name)
        return converted

    adapter = replace(
        adapter,
        deltas=tuple(
            replace(
                d,
                a=stored(f"{d.module}.A", d.a),
                b=stored(f"{d.module}.B", d.b),
                bias=None if d.bias is None else stored(f"{d.module}.B.bias", d.bias),
            )
            for d in adapter.deltas
        ),
        replacements=tuple(replace(r, value=stored(r.name, r.value)) for r in adapter.replacements),
        magnitudes=tuple(
            replace(m, value=stored(f"{m.module}.magnitude", m.value)) for m in adapter.magnitudes
        ),
    )
    for names, what in ((large, "large"), (small, "small")):
        if names:
            raise FormatError(
                f"values are too {what} for {target.name}",
                items=names[:SHOWN],
                hint="choose another dtype",
            )
    return adapter


def _overflows(before: Array, after: Array) -> bool:
    with np.errstate(over="ignore"):
        finite = np.isfinite(before.astype(np.float32))
    return bool((finite & ~np.isfinite(after.astype(np.float32))).any())


def rounding(adapter: Adapter, dtype: Dtype) -> str:
    """In a sentence, what storing an adapter's values in a dtype changes; empty: nothing."""
    worst, gone = 0.0, 0
    for _, array in adapter.arrays():
        values = array.astype(np.float32)
        stored = values.astype(DTYPES[dtype]).astype(np.float32)
        if not values.size or np.array_equal(values, stored):
            continue
        gone += int(np.count_nonzero((stored == 0) & (values != 0)))
        worst = max(worst, float(np.abs(values - stored).max() / np.abs(values).max()))
    if not worst:
        return ""
    zeros = f"; {gone:,} of {adapter.parameters:,} values became 0" if gone else ""
    return (
        f"stored as {dtype}: rounded by up to {100 * worst:.2g}% of a tensor's largest value{zeros}"
    )
