"""What both engines of ONNX graphs are: sequences in slots of one KV cache, and steps over them.

An engine runs all rows with one new token at once, and each with more on its own, unless it knows
better. How a graph is bound and fed is its subclass's business.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lorakit.base.folder import Base
from lorakit.engines.onnx.kv_cache import KVCache
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import (
    MAX_CONTEXT,
    Capabilities,
    Logits,
    Row,
    no_images,
)
from lorakit.errors import ClosedError
from lorakit.text.image_ids import Image

PREFILL_CHUNK = 128  # what a scheduler should ask for while other rows decode


class SequenceEngine(ABC):
    """See lorakit.engines.protocol.Engine for what the methods promise.

    session: None once the engine is closed. kv: has a slot for each sequence.
    """

    def __init__(self, base: Base, session: Any, capabilities: Capabilities, kv: KVCache) -> None:
        self._base = base
        self._session = session
        self._capabilities = capabilities
        self._kv = kv
        self._handles = itertools.count(1)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @abstractmethod
    def _check(self, rows: Sequence[Row]) -> None:
        """Refuse what cannot run before anything is touched."""

    @abstractmethod
    def _prefill(self, row: Row) -> Logits:
        """Many new tokens of one row, in chunks."""

    @abstractmethod
    def _decode(self, rows: Sequence[Row], first: int) -> dict[int, Logits]:
        """One new token for each of several rows, in one run; they sit in slots from `first`."""

    @abstractmethod
    def _unbind(self) -> None:
        """Let go of what is bound to the KV cache's buffers, which keeps them alive."""

    def open_sequence(self) -> int:
        self._require_open()
        return self._kv.open()

    def length(self, sequence: int) -> int:
        self._require_open()
        return self._kv.length(sequence)

    def reusable(self, sequence: int, length: int) -> int:
        return min(length, self._kv.length(sequence))  # every layer keeps every token

    def truncate(self, sequence: int, length: int) -> None:
        self._require_open()
        self._kv.truncate(sequence, length)

    def fork(self, sequence: int, length: int) -> int:
        self._require_open()
        return self._kv.fork(sequence, length)

    def close_sequence(self, sequence: int) -> None:
        self._require_open()
        before = self._kv.generation
        self._kv.close(sequence)
        if self._kv.generation != before:
            self._unbind()

    def save_sequence(self, sequence: int) -> bytes:
        self._require_open()
        return self._kv.save(sequence)

    def load_sequence(self, state: bytes, length: int) -> int:
        self._require_open()
        self._make_room(length)
        return self._kv.load(state, length)

    def encode_image(self, content: bytes) -> Image:
        raise no_images("onnx")

    def interrupt(self) -> None:  # noqa: B027
        """A step of this engine is short; it is not stopped."""

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        self._require_open()
        self._check(rows)
        if not rows:
            return []
        longest = max(self._kv.length(row.sequence) + len(row.tokens) for row in rows)
        self._make_room(longest)
        self._kv.reserve(longest)
        logits = self._computed(rows)
        for row in rows:  # only now, so that a failure above leaves every sequence as it was
            self._kv.advance(row.sequence, len(row.tokens))
        return [logits[row.sequence] for row in rows]

    def _computed(self, rows: Sequence[Row]) -> dict[int, Logits]:
        """Logits by sequence: of rows with one new token in one run, of each other in its own."""
        single = [row for row in rows if len(row.tokens) == 1]
        first, order = self._kv.arrange([row.sequence for row in single])
        logits = {row.sequence: self._prefill(row) for row in rows if len(row.tokens) > 1}
        if single:  # last, as its logits stay in the engine's buffer
            logits |= self._decode([single[index] for index in order], first)
        return logits

    def _make_room(self, length: int) -> None:
        """Before buffers are replaced by larger ones."""
        if length > self._kv.capacity:
            self._unbind()

    def _require_open(self) -> None:
        if self._session is None:
            raise ClosedError("the engine is closed")


def capabilities_of(
    options: OnnxOptions, *, vocabulary: int, context: int, kv_identity: str, few: int = 0
) -> Capabilities:
    """context: the most that the model takes. few: see Capabilities."""
    return Capabilities(
        engine="onnx",
        vocabulary=vocabulary,
        context=min(options.context or MAX_CONTEXT, context),
        max_batch=options.max_batch,
        max_sequences=options.max_batch + options.cached_sequences,
        mixed_batch=True,
        kv_identity=kv_identity,
        prefill_chunk=PREFILL_CHUNK,
        longest=context,
        few=few,
        lookup=True,
    )
