"""What masks cost, for bench/calls.py: each token of an answer, beside a decode step.

Each case follows an answer that its constraint allows, as the runtime does: tokens that are forced
are taken, and where a choice is left a step runs, and its token is checked against the mask. The
mask is made after the step ("in sequence"), or by `prepare` beside it; what then is left of it
after the step is the wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lorakit.chat.constraints.matching import Matcher
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.protocol import Row

CONTEXT = 384  # tokens that a step attends to
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "body": {"type": "string", "maxLength": 400},
        "tags": {"type": "array", "items": {"type": "string"}},
        "level": {"type": "integer"},
    },
    "required": ["title", "body", "tags", "level"],
}
JSON = (
    '{"title": "Lights in the kitchen", "body": "Somebody left the lights on again: please turn '
    'them off before you go, and close the blinds.", "tags": ["kitchen", "lights"], "level": 40}'
)
WORDS = (
    "I can turn the lights on for you, but first I need to know which room you mean: there are "
    "lights in the kitchen, the bath, the office and the living room. Which of them should it be?"
)


@dataclass(slots=True)
class Costs:
    """Seconds of each choice."""

    alone: list[float] = field(default_factory=list)  # forced, mask and accept, in sequence
    wait: list[float] = field(default_factory=list)  # the same after a step beside `prepare`
    step: list[float] = field(default_factory=list)
    tokens: int = 0  # of the answer, forced ones included


class Steps:
    """Decode steps of one row, each from the same state."""

    def __init__(self, engine: OnnxEngine) -> None:
        self.engine, self.sequence = engine, engine.open_sequence()
        ids = np.random.default_rng(0).integers(0, engine.capabilities.vocabulary, CONTEXT)
        engine.forward([Row(sequence=self.sequence, tokens=ids, logits="none")])
        self.row = Row(sequence=self.sequence, tokens=ids[:1])

    def __call__(self) -> float:
        begin = time.perf_counter()
        self.engine.forward([self.row])
        seconds = time.perf_counter() - begin
        self.engine.truncate(self.sequence, CONTEXT)
        return seconds


def costs(make: Callable[[], Matcher], answer: Sequence[int], steps: Steps, rounds: int) -> Costs:
    """Of some answers, in sequence and beside steps in turns; the first of each is not counted."""
    found = Costs(tokens=len(answer))
    for number in range(rounds + 1):
        into = found if number else Costs()
        _follow(make(), answer, steps, into, beside=False)
        _follow(make(), answer, steps, into, beside=True)
    return found


def _follow(
    matcher: Matcher, answer: Sequence[int], steps: Steps, into: Costs, *, beside: bool
) -> None:
    left = [*answer]
    while left and not matcher.ended:
        if beside:
            matcher.prepare()
        into.step.append(steps())
        begin = time.perf_counter()
        token = left.pop(0)
        if not matcher.allows(token):
            raise SystemExit(f"the constraint refuses token {token}, with {left} to come")
        matcher.accept(token)
        while forced := matcher.forced():
            for token in forced:
                if left.pop(0) != token:
                    raise SystemExit(f"token {token} is forced, and is not what was scripted")
                matcher.accept(token)
            if matcher.ended:
                break
        (into.wait if beside else into.alone).append(time.perf_counter() - begin)


def lines(name: str, found: Costs) -> Iterator[str]:
    """Rows of the table."""
    step = float(np.median(found.step))
    rows: Sequence[tuple[str, list[float], Any, str]] = (
        ("median a choice / step", found.alone, 50, "<= 0.02"),
        ("p99 in sequence / step", found.alone, 99, ""),
        ("p99 left beside a step / step", found.wait, 99, "<= 0.02"),
    )
    for title, seconds, share, goal in rows:
        value = float(np.percentile(seconds, share))
        yield (
            f"| masks, {name}: {title} | {value * 1e3:.3f} | {step * 1e3:.1f} "
            f"| {value / step:.4f} | {goal} |"
        )
