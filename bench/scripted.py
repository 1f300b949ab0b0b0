"""Answers of which the content is known, on weights that are random: for bench/calls.py.

The engine computes what it always computes; then the logit of the token that the script wants is
raised far above all others. So a free and a constrained answer say the same, and only what they
cost differs. It follows each sequence's tokens through forks and truncations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.protocol import Row

SURE = np.float32(1e6)


class Script:
    """What answers to prompts say. While it is on, every ONNX engine obeys it; one at a time."""

    def __init__(self) -> None:
        self._answers: dict[tuple[int, ...], Sequence[int]] = {}
        self._tokens: dict[int, list[int]] = {}
        self.steps = 0  # runs of the engine
        self.rows = 0  # rows of these

    def say(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Answer a prompt with these tokens; after them anything may follow."""
        self._answers[tuple(prompt)] = answer

    def direct(self) -> None:
        """From now on, for good: a benchmark looks inside."""
        forward, fork, truncate = OnnxEngine.forward, OnnxEngine.fork, OnnxEngine.truncate
        opened, closed = OnnxEngine.open_sequence, OnnxEngine.close_sequence
        tokens = self._tokens

        def open_sequence(engine: OnnxEngine) -> int:
            sequence = opened(engine)
            tokens[sequence] = []
            return sequence

        def close_sequence(engine: OnnxEngine, sequence: int) -> None:
            closed(engine, sequence)
            tokens.pop(sequence, None)

        def forked(engine: OnnxEngine, sequence: int, length: int) -> int:
            copy = fork(engine, sequence, length)
            tokens[copy] = tokens[sequence][:length]
            return copy

        def cut(engine: OnnxEngine, sequence: int, length: int) -> None:
            truncate(engine, sequence, length)
            del tokens[sequence][length:]

        def step(engine: OnnxEngine, rows: Sequence[Row]) -> list[Any]:
            found = forward(engine, rows)
            self.steps += 1
            self.rows += len(rows)
            for row, logits in zip(rows, found, strict=True):
                self._direct(row, logits)
            return found

        replaced: dict[str, Any] = {
            "open_sequence": open_sequence, "close_sequence": close_sequence, "fork": forked,
            "truncate": cut, "forward": step,
        }  # fmt: skip
        for name, method in replaced.items():
            setattr(OnnxEngine, name, method)

    def _direct(self, row: Row, logits: Any) -> None:
        held = self._tokens[row.sequence]
        before = len(held)
        held.extend(row.tokens.tolist())
        if not len(logits):
            return
        for at, position in enumerate(_positions(row)):
            wanted = self._wanted(held[: before + position + 1])
            if wanted is None:
                continue
            if row.among is None:
                logits[at, wanted] = SURE
            elif wanted in row.among:
                logits[at, int(np.searchsorted(row.among, wanted))] = SURE

    def _wanted(self, tokens: list[int]) -> int | None:
        for prompt, answer in self._answers.items():
            said = len(tokens) - len(prompt)
            if 0 <= said < len(answer) and tuple(tokens[: len(prompt)]) == prompt:
                return answer[said] if tokens[len(prompt) :] == list(answer[:said]) else None
        return None


def _positions(row: Row) -> Sequence[int]:
    count = len(row.tokens)
    if isinstance(row.logits, tuple):
        return row.logits
    return {"last": [count - 1], "all": range(count), "none": []}[row.logits]
