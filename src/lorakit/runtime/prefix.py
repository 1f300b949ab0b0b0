"""Idle sequences kept for their KV cache, found again by what was computed in them.

KV belongs to (adapter digests and scales, tokens): nothing is reused across different keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorakit.engines.protocol import Engine
from lorakit.images import inside
from lorakit.runtime.plan import Key, agreement

Tokens = npt.NDArray[np.int64]


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
        differs = np.flatnonzero(self.tokens[:n] != tokens[:n])
        n = int(differs[0]) if len(differs) else n
        return n - max(inside(self.tokens, n), inside(tokens, n))


class PrefixCache:
    """Idle sequences of one engine, least recently used first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idle: list[Prefix] = []

    def __len__(self) -> int:
        return len(self._idle)

    def put(self, prefix: Prefix) -> None:
        """Keep a sequence that is no longer used; shorter copies of it are dropped."""
        for other in [
            p for p in self._idle if p.common(prefix.key, prefix.tokens) == len(p.tokens)
        ]:
            self._drop(other)
        self._idle.append(prefix)

    def find(self, key: Key, tokens: Tokens) -> tuple[Prefix, int] | None:
        """The idle sequence that shares most with `tokens` under `key`, and how much."""
        found = max(self._idle, key=lambda p: p.common(key, tokens), default=None)
        common = found.common(key, tokens) if found else 0
        return (found, common) if found and common else None

    def replace(self, old: Prefix, new: Prefix) -> None:
        """The same sequence, which now holds other tokens; it is the most recently used."""
        self._idle.remove(old)
        self._idle.append(new)

    def evict(self) -> bool:
        """Close the least recently used sequence; False where there is none."""
        if self._idle:
            self._drop(self._idle[0])
            return True
        return False

    def acquire(
        self, key: Key, tokens: Tokens, busy: Sequence[Prefix], room: int
    ) -> tuple[int, int]:
        """A sequence for `tokens`, and how many of them its cache already holds.

        An idle sequence that is wholly a prefix is taken over; one that shares only its beginning,
        or is `busy`, is forked. `room` is how many sequences the engine can still open; without
        any, the least recently used idle one gives way.
        """
        limit = tokens[:-1]  # the last token must run, for its logits
        best, common = None, 0
        for prefix in [*busy, *self._idle]:
            if (shared := prefix.common(key, limit)) >= max(common, 1):
                best, common = prefix, shared
        whole = best is not None and common == len(best.tokens)
        if best in self._idle and (whole or (not room and best is self._idle[0])):
            self._idle.remove(best)
            self._engine.truncate(best.sequence, common)
            return best.sequence, common
        if not room:
            self.evict()
        if best is None:
            return self._engine.open_sequence(), 0
        if best in self._idle:  # used just now
            self._idle.append(self._idle.pop(self._idle.index(best)))
        return self._engine.fork(best.sequence, common), common

    def _drop(self, prefix: Prefix) -> None:
        self._idle.remove(prefix)
        self._engine.close_sequence(prefix.sequence)
