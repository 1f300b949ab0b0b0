"""A checkpoint that was saved with an adapter still beside its weights, unmerged.

PEFT's layers hold the base's weight as `base_layer` and the adapter's as `lora_A` and `lora_B`:
`save_pretrained` of the wrong object writes them all as one model (llama.cpp#3640).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lorakit.adapter import in_order
from lorakit.errors import BaseModelError

_PARTS = re.compile(
    r"(?:^|\.)(?:lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)|base_layer)(?:\.|$)"
)
SHOWN = 5


def require_plain(folder: Path, names: Iterable[str]) -> None:
    """BaseModelError where some tensors are an adapter's."""
    found = in_order(name for name in names if _PARTS.search(name))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise BaseModelError(
            f"{folder} holds an adapter's tensors beside the base's: it was saved without merging",
            items=[*found[:SHOWN], *more],
            hint="use the original base and the adapter's own folder, or save it again after "
            "PEFT's merge_and_unload",
        )
