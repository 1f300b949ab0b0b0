"""Idle sequences kept for their KV cache, to be found by their tokens and adapters.

The key of KV is (adapter digests and scales, tokens): it is never reused under another key, nor
beyond what the engine reports that it still holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorakit.engines.protocol import Engine
from lorakit.runtime.sequences import Sequences
from lorakit.runtime.stages import Key, agreement
from lorakit.text.image_ids import inside

Tokens = npt.NDArray[np.int64]
log = logging.getLogger("lorakit")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefix:
    """A sequence whose cache holds `tokens`, all computed under `key`."""

    sequence: int
    key: Key
    tokens: Tokens

    def common(self, key: Key, tokens: Tokens) -> int:
        """How many leading tokens can serve a sequence of `tokens` under `key`.

        Never a part of an image: its positions may attend to those after them.
        """
        n = min(len(self.tokens), len(tokens))
        alike = agreement(self.key, key)
        n = n if alike is None else min(n, alike)
        differs = self.tokens[:n] != tokens[:n]
        first = int(differs.argmax()) if n else 0
        n = first if n and differs[first] else n
        return n - max(inside(self.tokens, n), inside(tokens, n))


class PrefixCache:
    """Idle sequences of one engine, least recently used first."""

    def __init__(self, engine: Engine, sequences: Sequences) -> None:
        self._engine = engine
        self._sequences = sequences
        self._idle: list[Prefix] = []

    def __len__(self) -> int:
        return len(self._idle)

    def put(self, prefix: Prefix) -> None:
        """Keep a sequence that is no longer used; shorter copies of it are dropped.

        What its cache holds beyond the prefix's tokens is cut off.
        """
        if not len(prefix.tokens):
            self._sequences.close(prefix.sequence)
            return
        if not self._sequences.cut(prefix.sequence, len(prefix.tokens)):
            return
        for other in [
            p for p in self._idle if p.common(prefix.key, prefix.tokens) == len(p.tokens)
        ]:
            self._drop(other)
        self._idle.append(prefix)

    def evict(self) -> bool:
        """Close the least recently used sequence; False if there is none."""
        if self._idle:
            self._drop(self._idle[0])
            return True
        return False

    def acquire(
        self, key: Key, tokens: Tokens, busy: Sequence[Prefix], rest: int = 1
    ) -> tuple[int, int]:
        """A sequence for `tokens`, and how many of them its cache already holds: all but `rest`.

        An idle sequence that is entirely a prefix of `tokens` is reused; one that only shares its
        beginning, or is `busy`, is forked. If the engine can open no more sequences, the least
        recently used idle one is closed. KV that the engine cannot fork is computed again.
        """
        best, common = self._best(key, tokens[:-rest], busy)  # the last must run, for its logits
        if best is not None and best in self._idle:
            whole = common == len(best.tokens)
            if whole or (best is self._idle[0] and not self._sequences.room):
                self._idle.remove(best)
                if self._sequences.cut(best.sequence, common):
                    return best.sequence, common
                best = None
            else:  # now the most recently used
                self._idle.append(self._idle.pop(self._idle.index(best)))
        if not self._sequences.room:
            self.evict()
        if best is not None:
            copy = self._sequences.fork(best.sequence, common)
            if copy is not None:
                return copy, common
        return self._sequences.open(), 0

    def _best(self, key: Key, tokens: Tokens, busy: Sequence[Prefix]) -> tuple[Prefix | None, int]:
        """The sequence that shares most with `tokens`; of equals, the most recently used."""
        best, most = None, 0
        for prefix in [*busy, *self._idle]:
            shared = prefix.common(key, tokens)
            if shared >= max(most, 1):
                shared = self._held(prefix, shared)
                if shared >= max(most, 1):
                    best, most = prefix, shared
        return best, most

    def _held(self, prefix: Prefix, length: int) -> int:
        """How much of a prefix the engine still holds; never a part of an image."""
        try:
            held = min(length, self._engine.reusable(prefix.sequence, length))
        except Exception as error:
            log.warning("a KV cache is not reused: %s", error)
            return 0
        return held - inside(prefix.tokens, held)

    def _drop(self, prefix: Prefix) -> None:
        self._idle.remove(prefix)
        self._sequences.close(prefix.sequence)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._idle)
