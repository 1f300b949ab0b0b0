"""The filters of the sampler: which tokens remain, and where a draw falls among them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorakit.engines.protocol import Logits

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]
BLOCK = 512  # tokens that are summed or searched together


def index(weights: Weights, uniform: float) -> int:
    """The index at which the running sum of the weights passes `uniform` of their total."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK), dtype=np.float64)
    ends = np.cumsum(blocks)
    point = uniform * ends[-1]
    block = int(np.searchsorted(ends, point, side="right"))
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    rest = point - (ends[block] - blocks[block])
    return block * BLOCK + min(int(np.searchsorted(inside, rest, side="right")), len(inside) - 1)


def nucleus(tokens: Ids, weights: Weights, top_p: float) -> tuple[Ids, Weights]:
    """The likeliest tokens that together reach top_p, best first; sorts only those near the top."""
    target = top_p * float(weights.sum(dtype=np.float64))
    for least in (1e-2, 1e-4, 0.0):
        near = np.flatnonzero(weights >= least)
        if weights[near].sum(dtype=np.float64) >= target:
            break
    order = near[np.argsort(-weights[near], kind="stable")]
    before = np.cumsum(weights[order], dtype=np.float64) - weights[order]
    kept = order[: np.count_nonzero(before < target)]
    return tokens[kept], weights[kept]


def typical(tokens: Ids, weights: Weights, typical_p: float) -> tuple[Ids, Weights]:
    """The tokens with surprise closest to the entropy that together reach typical_p."""
    p = weights / weights.sum(dtype=np.float64)
    surprise = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
    order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = order[: np.count_nonzero(before < typical_p)]
    return tokens[kept], weights[kept]


def at_most_kth_largest(logits: Logits, k: int) -> np.float32:
    """A lower bound of the k-th largest logit: the k-th largest of the maxima of blocks."""
    size = max(1, min(BLOCK, len(logits) // (4 * k)))
    whole = logits[: len(logits) // size * size].reshape(-1, size).max(axis=1)
    if len(whole) < k:
        return np.float32(-np.inf)
    return np.float32(np.partition(whole, len(whole) - k)[len(whole) - k])


def largest(logits: Logits, tokens: Ids, count: int) -> Ids:
    """The `count` best of `tokens`; ties go to the smaller ids."""
    values = logits[tokens]
    border = np.partition(values, len(values) - count)[len(values) - count]
    better = tokens[values > border]
    equal = tokens[values == border][: count - len(better)]
    return np.sort(np.concatenate([better, equal]))
