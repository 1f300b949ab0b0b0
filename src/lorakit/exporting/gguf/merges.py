"""Scores that follow from the order of the merges in tokenizer.json, and whether any do.

llama.cpp joins any two tokens whose whole is a token, that with the best score first, and of equals
the leftmost. So each such pair must be a merge, and the merges that make one token must follow each
other. Runs of one character may be made in any order: the leftmost of them grows longest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import UnsupportedError
from lorakit.exporting.gguf.tokenizer_json import TokenizerJson

_BASE = 6364136223846793005  # odd, so that it has an inverse among numbers of 64 bits
_SHOWN = 20


def derived_scores(tokenizer: TokenizerJson) -> Array:
    """Of each token of the vocabulary, in the order of `ids`: 0, -1, -2 ... as SentencePiece's are.

    Raises UnsupportedError where no scores give these merges.
    """
    wholes = [left + right for left, right in tokenizer.pairs()]
    order = {whole: place for place, whole in enumerate(dict.fromkeys(wholes))}
    faults = _scattered(wholes, len(order)) + _unmerged(tokenizer, wholes, order)
    if faults:
        raise UnsupportedError(
            f"{tokenizer.path} has merges that no scores of SentencePiece give",
            items=faults[:_SHOWN],
            hint="with the tokenizer.model of the model, its own scores are taken",
        )
    places = np.array([order.get(token, -1) for token in tokenizer.ids], np.int64)
    never = places < 0
    places[never] = np.arange(len(order), len(order) + never.sum())
    found: Array = -places.astype(np.float32)
    return found


def _scattered(wholes: list[str], count: int) -> list[str]:
    """Tokens, other than runs of one character, whose merges do not follow each other."""
    rows = [whole for whole, _ in groupby(wholes)]
    if len(rows) == count:
        return []
    return [
        f"{whole!r:.80}: is made by merges that do not follow each other"
        for whole, times in Counter(rows).items()
        if times > 1 and len(set(whole)) > 1
    ]


def _unmerged(tokenizer: TokenizerJson, wholes: list[str], order: Mapping[str, int]) -> list[str]:
    """Tokens that llama.cpp would join from two others of which tokenizer.json has no merge."""
    if ways_to_cut(tokenizer.ids) == len(wholes):  # all that can be, as SentencePiece's are
        return []
    out = {one.content for one in tokenizer.added.values() if not one.merged}
    parts = ({token for token in tokenizer.ids if len(token) == 1} | order.keys()) - out
    merges = Counter(
        left + right for left, right in tokenizer.pairs() if left in parts and right in parts
    )
    return [
        f"{token!r:.80}: can be joined in a way of which there is no merge"
        for token in tokenizer.ids
        if token not in out
        and merges[token]
        != sum(token[:at] in parts and token[at:] in parts for at in range(1, len(token)))
    ]


def ways_to_cut(tokens: Iterable[str]) -> int:
    """In how many ways tokens can be cut into two that are tokens too.

    Each substring is told by a number: its characters, as digits, modulo 2 to the power of 64.
    """
    held = list(tokens)
    flat = np.frombuffer("".join(held).encode("utf-32-le"), np.uint32).astype(np.uint64) + 1
    sizes = np.fromiter(map(len, held), np.int64, len(held))
    last = np.cumsum(sizes)
    first = last - sizes
    upon = _powers(_BASE, len(flat))
    back = _powers(pow(_BASE, -1, 1 << 64), len(flat))
    total = np.zeros(len(flat) + 1, np.uint64)
    np.cumsum(flat * upon[:-1], out=total[1:])

    def told(begin: Any, end: Any) -> Any:
        return (total[end] - total[begin]) * back[begin]

    cut = np.arange(len(flat))
    begin, end = np.repeat(first, sizes), np.repeat(last, sizes)
    inside = cut > begin
    begin, cut, end = begin[inside], cut[inside], end[inside]
    return _both(told(begin, cut), told(cut, end), known=np.sort(told(first, last)))


def _both(left: Array, right: Array, *, known: Array) -> int:
    """In how many places both numbers are among the sorted ones."""
    some = np.zeros(1 << 22, np.bool_)  # whether any begins with these 22 bits: quick, for most
    some[known >> 42] = True
    likely = some[left >> 42] & some[right >> 42]
    for side in (left, right):
        asked = side[likely]
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        likely[likely] = known[place] == asked
    return int(likely.sum())


def _powers(base: int, count: int) -> Array:
    powers = np.full(count + 1, base, np.uint64)
    powers[0] = 1
    found: Array = np.multiply.accumulate(powers)
    return found
