"""PEFT's words for ways to combine (`combination_type` of add_weighted_adapter), and what they mean
here, where everything is a sum of whole deltas.

PEFT's linear, ties, dare_linear and magnitude_prune work on A and on B apart, so that the product
holds one adapter's A times another's B; its ..._svd work on deltas, as all do here. It has
dare_ties, too, which is not here. Source: peft/tuners/lora/model.py of PEFT 0.21.
"""

from __future__ import annotations

from typing import Literal

from lorakit.algebra.sparse import Method
from lorakit.values import among

PeftMethod = Literal[
    "cat",
    "linear",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
AnyMethod = Literal[Method, PeftMethod]
_APART = (
    "PEFT's {word} adds A and B apart, which also multiplies one adapter's A with another's B; "
    "here it is {method}, of the deltas themselves"
)
WORDS: dict[str, tuple[Method, str]] = {
    "cat": ("concatenate", ""),
    "linear": ("concatenate", _APART),
    "ties_svd": ("ties", ""),
    "dare_linear": ("dare", _APART),
    "dare_linear_svd": ("dare", ""),
    "magnitude_prune": ("magnitude", _APART),
    "magnitude_prune_svd": ("magnitude", ""),
}


def in_our_words(method: AnyMethod) -> tuple[Method, tuple[str, ...]]:
    """The method that is meant, and a note where PEFT's own computes something else."""
    if not among(method, WORDS):
        return method, ()  # type: ignore[return-value]  # ours, or refused by who checks it
    ours, note = WORDS[method]
    return ours, (note.format(word=method, method=ours),) if note else ()
