"""Writing GGUF adapters: the reverse of `read`, bit for bit what llama.cpp's own converter writes
where that one is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from lorakit.adapter import Adapter, Array, Delta
from lorakit.architectures import Decoder
from lorakit.check import LOST, lost
from lorakit.errors import FormatError, ParameterError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.gguf import Value
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats.express import require_expressible
from lorakit.formats.gguf.express import alpha_of, cannot_express
from lorakit.formats.gguf.names import ROTATED, head_keys, heads_of, permuted, tensor_of
from lorakit.formats.gguf.read import ALPHA, BASE, FINGERPRINT, INVOCATION
from lorakit.values import among, shown

DTYPES: dict[str, np.dtype[np.generic]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}


def write_gguf(
    adapter: Adapter, path: Path, decoder: Decoder, *, dtype: Literal["f32", "f16"] = "f32"
) -> None:
    """Write an adapter so that llama.cpp computes the same on the base that `decoder` describes.

    The file has one alpha, the most frequent one of the adapter's; where a module's own differs,
    the quotient is folded into its B. Equal arguments give equal bytes.

    Raises UnsupportedError listing every part that GGUF cannot express, FormatError for values that
    the dtype cannot hold, ParameterError for another dtype, WriteError where the disk refuses.
    """
    if not among(dtype, DTYPES):
        raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}, found {shown(dtype)}")
    require_expressible(cannot_express(adapter, decoder), "GGUF")
    alpha = _common_alpha(adapter.deltas)
    tensors: dict[str, Array] = {}
    large: list[str] = []
    small: list[str] = []
    for delta in adapter.deltas:
        name = f"{tensor_of(delta.module, decoder.architecture.layout)}.weight.lora_"
        for half, array in zip("ab", _stored(delta, alpha, decoder), strict=True):
            with np.errstate(over="ignore"):
                stored = array.astype(DTYPES[dtype], copy=False)
            tensors[name + half] = stored
            if stored is not array and (np.isfinite(array) & ~np.isfinite(stored)).any():
                large.append(f"{delta.module}: {half.upper()}")
            elif stored is not array and lost(array, DTYPES[dtype]) > LOST:
                small.append(f"{delta.module}: {half.upper()}")
    for names, what in ((large, "large"), (small, "small")):
        if names:
            raise FormatError(
                f"values are too {what} for {dtype}", items=names[:20], hint="choose another dtype"
            )
    values = _values(adapter, decoder, alpha)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: write_gguf_file(file, values, tensors))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def _common_alpha(deltas: Iterable[Delta]) -> float:
    """The most frequent alpha at float32, the smaller of equals; 0 is not one: it means 1 there."""
    counts = Counter(float(np.float32(alpha_of(delta))) for delta in deltas)
    counts.pop(0.0, None)
    return max(counts, key=lambda alpha: (counts[alpha], -alpha), default=1.0)


def _stored(delta: Delta, alpha: float, decoder: Decoder) -> tuple[Array, Array]:
    """A and B as GGUF keeps them, at the precision that the folding needs."""
    a, b = delta.a, delta.b
    if float(np.float32(alpha_of(delta))) != alpha:
        b = b.astype(np.float64) * (alpha_of(delta) / alpha)
    if decoder.architecture.gguf_permuted:
        heads = dict(zip(ROTATED, (decoder.heads, decoder.kv_heads), strict=True))
        if count := heads_of(delta.module, heads):
            b = permuted(b, count, 2)
    return (a.T if delta.module == decoder.embedding else a), b


def _values(adapter: Adapter, decoder: Decoder, alpha: float) -> dict[str, Value]:
    architecture, asked = decoder.architecture.gguf, adapter.precondition
    values = {
        "general.architecture": Value("str", architecture),
        "general.type": Value("str", "adapter"),
        "adapter.type": Value("str", "lora"),
        ALPHA: Value("f32", alpha),
    }
    if adapter.invocation_tokens:
        values[INVOCATION] = Value("u32", adapter.invocation_tokens, array=True)
    if decoder.architecture.gguf_permuted:
        counts = (decoder.heads, decoder.kv_heads)
        keys = head_keys(architecture)
        values |= {key: Value("u32", count) for key, count in zip(keys, counts, strict=True)}
    if asked.name:
        values |= {
            "general.base_model.count": Value("u32", 1),
            f"{BASE}.name": Value("str", asked.name),
        }
    if asked.fingerprint:
        values[FINGERPRINT] = Value("str", asked.fingerprint)
    return values
