"""Values rounded to any tensor type: what lorakit does not round itself, by ggml's own function.

Values that no block can hold are refused before native code sees them: some of its functions abort
the process at 1e13, others write zeros at 1e18. It knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.engines.llama.native import llama
from lorakit.errors import EngineError
from lorakit.files.gguf_types import TYPE_NUMBERS, stored_size
from lorakit.files.rounding import ROUNDINGS, Rounding, is_finite, overflow

LARGEST = 65504.0 * 32 * 128  # of what any block holds: a float16 times two small integers


def rounding(kinds: Iterable[str]) -> dict[str, Rounding]:
    """How to round to each of some types; the functions may run on several threads at once.

    They raise OverflowError for values that the type cannot hold. Raises MissingExtraError where a
    library is needed and there is none.
    """
    wanted = set(kinds)
    api = None if wanted <= ROUNDINGS.keys() else llama()
    return {kind: ROUNDINGS.get(kind) or partial(_to_blocks, api, kind) for kind in wanted}


def _to_blocks(api: Any, kind: str, values: Array) -> Array:
    values = np.require(values, np.float32, ("C", "A"))
    if not max(values.max(), -values.min()) <= LARGEST:  # nor are NaN taken
        raise overflow(values)
    count, blocks = values.size, np.empty(stored_size(kind, values.size), np.uint8)
    written = api.ggml_quantize_chunk(
        TYPE_NUMBERS[kind], values.ctypes.data, blocks.ctypes.data, 0, 1, count, None
    )
    if written != blocks.size:
        raise EngineError(f"llama.cpp wrote {written} bytes of {kind}, not {blocks.size}")
    if not is_finite(kind, blocks):
        raise overflow(values)
    return blocks
