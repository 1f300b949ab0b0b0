"""What two sides are compared on where the user names nothing.

A few texts through the model's own tokenizer; seeded ids from the whole vocabulary, since texts
touch few of its rows; and what switches parts of an adapter on: invocation tokens, replaced rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lorakit.adapter import Adapter

if TYPE_CHECKING:
    from lorakit.text.tokenizer import TextTokenizer

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps until noon.",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "Wie spät ist es in Tokio? 3.14 * 2 = 6.28; naïve café, 東京 🙂",
)
SEED = 20240607
LENGTH = 32  # tokens of a made-up prompt
_SWITCHES = 8  # replaced rows that are tried


def prompts_for(
    tokenizer: TextTokenizer | None, vocabulary: int, adapters: Sequence[Adapter] = ()
) -> dict[str, list[int]]:
    """The built-in prompts by name, at most LENGTH tokens each and the same on every machine.

    tokenizer: None leaves out the texts. adapters: those whose special tokens should occur.
    """
    texts = [] if tokenizer is None else [tokenizer.encode(t, special=True) for t in TEXTS]
    found = {f"text {n}": ids[:LENGTH] for n, ids in enumerate(texts, 1) if ids}
    draw = np.random.default_rng(SEED)
    found["random ids"] = draw.integers(0, vocabulary, LENGTH).tolist()
    for number, adapter in enumerate(adapters, 1):
        switches = [*adapter.invocation_tokens, *_rows(adapter)]
        inside = [token for token in switches if 0 <= token < vocabulary]
        if inside:
            around = draw.integers(0, vocabulary, 2 * _SWITCHES).tolist()
            found[f"adapter {number}"] = [
                *around[:_SWITCHES], *inside, *around[_SWITCHES:],
            ]  # fmt: skip
    return found


def _rows(adapter: Adapter) -> list[int]:
    """Ids of some embedding rows that the adapter replaces."""
    rows = [r.rows for r in adapter.replacements if r.rows is not None]
    return sorted({int(row) for ids in rows for row in ids[:_SWITCHES]})[:_SWITCHES]
