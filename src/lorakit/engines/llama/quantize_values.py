"""Values rounded to a tensor type: floats by numpy, blocks by ggml's own function.

Values that no block can hold are refused before native code sees them: some of its functions abort
the process at 1e13, others write zeros at 1e18. It knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.engines.llama.native import llama
from lorakit.errors import EngineError
from lorakit.files.gguf_types import BLOCKS, PLAIN, TYPE_NUMBERS, stored_size

Rounding = Callable[[Array], Array]  # float32 values, whole blocks of them, to bytes
LARGEST = 65504.0 * 32 * 128  # of what any block holds: a float16 times two small integers
# Where a block holds its float16 factors: bytes from its beginning. Source: ggml-common.h.
_FACTORS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "IQ3_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip


def rounding(kinds: Iterable[str]) -> dict[str, Rounding]:
    """How to round to each of some types; the functions may run on several threads at once.

    They raise OverflowError for values that the type cannot hold. Raises MissingExtraError where a
    library is needed and there is none.
    """
    api = None if set(kinds) <= PLAIN.keys() else llama()
    return {
        kind: partial(_to_floats, kind) if kind in PLAIN else partial(_to_blocks, api, kind)
        for kind in kinds
    }


def is_finite(kind: str, raw: Array) -> bool:
    """Whether stored bytes hold finite numbers; of types that are only copied nothing is known."""
    if kind in PLAIN:
        return bool(np.isfinite(raw.view(PLAIN[kind])).all())
    blocks = raw.reshape(-1, BLOCKS[kind][1])
    return all(
        np.isfinite(np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)).all()
        for at in _FACTORS.get(kind, ())
    )


def _to_floats(kind: str, values: Array) -> Array:
    with np.errstate(over="ignore"):
        rounded = values.astype(PLAIN[kind]).view(np.uint8)
    if not is_finite(kind, rounded):
        raise _overflow(values)
    return rounded


def _to_blocks(api: Any, kind: str, values: Array) -> Array:
    values = np.require(values, np.float32, ("C", "A"))
    if max(values.max(), -values.min()) > LARGEST:
        raise _overflow(values)
    count, blocks = values.size, np.empty(stored_size(kind, values.size), np.uint8)
    written = api.ggml_quantize_chunk(
        TYPE_NUMBERS[kind], values.ctypes.data, blocks.ctypes.data, 0, 1, count, None
    )
    if written != blocks.size:
        raise EngineError(f"llama.cpp wrote {written} bytes of {kind}, not {blocks.size}")
    if not is_finite(kind, blocks):
        raise _overflow(values)
    return blocks


def _overflow(values: Array) -> OverflowError:
    return OverflowError(f"values up to {np.abs(values).max():.3g}")
