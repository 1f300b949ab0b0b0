"""A tiny deterministic engine for testing the layers above engines.

It is no language model: its logits are a hash of everything that a real engine's logits depend on,
the tokens and the adapters that acted on each of them. A stale or mixed-up KV cache therefore
changes its output, which is what a test of a scheduler wants to see.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.engines.protocol import (
    AdapterSet,
    Capabilities,
    Engine,
    Logits,
    Prepared,
    Row,
    Tokens,
    no_images,
)
from lorakit.engines.steps import check_wanted
from lorakit.errors import ContextFullError, EngineError
from lorakit.text.image_ids import Image

_MASK = (1 << 64) - 1
_MULTIPLIER = 6364136223846793005  # Knuth's MMIX linear congruential generator


@dataclass(slots=True, kw_only=True)
class FakeEngine(Engine):
    """Deterministic logits without weights.

    `before_step` sees the rows of each step first and may raise, to test failures; `steps` records
    the rows of every step that ran.
    """

    vocabulary: int = 64
    context: int = 256
    max_batch: int = 4
    max_sequences: int = 8
    prefill_chunk: int = 16
    prompt_row: int = 1
    few: int = 16
    lookup: bool = True
    kv_identity: str = "fake"
    step_seconds: float = 0.0
    before_step: Callable[[Sequence[Row]], None] | None = None
    steps: list[list[Row]] = field(default_factory=list)
    closed: bool = False
    _adapters: dict[int, str] = field(default_factory=dict)
    _states: dict[int, list[int]] = field(default_factory=dict)
    _handles: int = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="fake",
            vocabulary=self.vocabulary,
            context=self.context,
            max_batch=self.max_batch,
            max_sequences=self.max_sequences,
            mixed_batch=True,
            kv_identity=self.kv_identity,
            prefill_chunk=self.prefill_chunk,
            longest=self.context,
            few=self.few,
            lookup=self.lookup,
        )

    def shortest_row(self, adapters: AdapterSet) -> int:
        return self.prompt_row

    def prepare(self, adapter: Adapter) -> Prepared:
        return Prepared(adapter=adapter)

    def attach(self, prepared: Prepared) -> int:
        self._handles += 1
        self._adapters[self._handles] = prepared.adapter.digest
        return self._handles

    def detach(self, handle: int) -> None:
        del self._adapters[handle]

    def open_sequence(self) -> int:
        if len(self._states) >= self.max_sequences:
            raise EngineError(f"all {self.max_sequences} sequences are open")
        self._handles += 1
        self._states[self._handles] = [0]
        return self._handles

    def length(self, sequence: int) -> int:
        return len(self._states[sequence]) - 1

    def reusable(self, sequence: int, length: int) -> int:
        return min(length, self.length(sequence))

    def truncate(self, sequence: int, length: int) -> None:
        del self._states[sequence][length + 1 :]

    def fork(self, sequence: int, length: int) -> int:
        copy = self.open_sequence()
        self._states[copy] = self._states[sequence][: length + 1]
        return copy

    def close_sequence(self, sequence: int) -> None:
        del self._states[sequence]

    def save_sequence(self, sequence: int) -> bytes:
        return np.asarray(self._states[sequence], "<u8").tobytes()

    def load_sequence(self, state: bytes, length: int) -> int:
        if len(state) != 8 * (length + 1):
            raise EngineError("the state is of another length")
        sequence = self.open_sequence()
        self._states[sequence] = np.frombuffer(state, "<u8").tolist()
        return sequence

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        sequence = self.open_sequence()
        for tokens, adapters in parts:
            self._run(Row(sequence=sequence, tokens=tokens, adapters=adapters, logits="none"))
        states = self._states.pop(sequence)[1:]
        return np.asarray(
            [[state >> shift & 0xFF for shift in range(0, 64, 8)] for state in states], np.float32
        )

    def encode_image(self, content: bytes) -> Image:
        raise no_images("fake")

    def interrupt(self) -> None:
        pass

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        if self.before_step:
            self.before_step(rows)
        if len(rows) > self.max_batch or len({row.sequence for row in rows}) < len(rows):
            raise EngineError("too many rows, or one sequence twice")
        limits = self.capabilities
        for row in rows:
            check_wanted(row, limits)
            if self.length(row.sequence) + len(row.tokens) > self.context:
                raise ContextFullError(f"sequence {row.sequence} would outgrow {self.context}")
        if self.step_seconds:
            time.sleep(self.step_seconds)
        self.steps.append(list(rows))
        return [self._run(row) for row in rows]

    def close(self) -> None:
        self.closed = True
        self._states.clear()
        self._adapters.clear()

    def _run(self, row: Row) -> Logits:
        states = self._states[row.sequence]
        salt = self._salt(row.adapters)
        begin = len(states)
        for token in row.tokens.tolist():
            states.append(((states[-1] ^ salt) * _MULTIPLIER + token + 1) & _MASK)
        wanted = [states[begin + at] for at in row.positions]
        logits = np.empty((len(wanted), self.vocabulary), np.float32)
        for at, state in enumerate(wanted):
            logits[at] = np.random.Generator(np.random.PCG64(state)).standard_normal(
                self.vocabulary, dtype=np.float32
            )
        return logits if row.among is None else logits[:, row.among]

    def _salt(self, adapters: AdapterSet) -> int:
        held = [(self._adapters[handle], scale) for handle, scale in adapters]
        return int.from_bytes(hashlib.sha256(repr(held).encode()).digest()[:8], "little")
