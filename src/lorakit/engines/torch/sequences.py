"""Sequences: their tokens, keys and values, and which adapters acted on which of them.

A state is immutable, so a step that fails leaves it as it was, and a fork shares it. Every layer
keeps all keys and values, sliding ones too: what a window hides is masked, so any length can be
cut off again. Adapters with invocation tokens (aLoRA: Greenewald et al. 2025) act from the last
occurrence of their invocation on; `plan` says what must run for that, a part of what is held again
where an invocation came, or was completed, only now.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import DynamicCache

from lorakit.engines.protocol import AdapterSet
from lorakit.errors import EngineError

Tokens = npt.NDArray[np.int64]
Layers = tuple[tuple[Any, Any], ...]  # keys and values [1, heads, tokens, head_dim] of each layer
Invocations = Mapping[int, tuple[int, ...]]  # by handle, of the adapters that have one


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens that were asked for under one adapter set and ran under another."""

    begin: int
    end: int
    asked: AdapterSet
    acted: AdapterSet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """tokens int64 [n], what their keys and values are, and the runs that made them."""

    tokens: Tokens = field(default_factory=lambda: np.zeros(0, np.int64))
    layers: Layers = ()
    runs: tuple[Run, ...] = ()

    def first(self, length: int) -> State:
        """The state of the first tokens, without the memory of the rest."""
        if length == len(self.tokens):
            return self
        return State(
            tokens=self.tokens[:length].copy(),
            layers=tuple(
                (keys[..., :length, :].clone(), values[..., :length, :].clone())
                for keys, values in self.layers
            )
            if length
            else (),
            runs=tuple(
                replace(run, end=min(run.end, length)) for run in self.runs if run.begin < length
            ),
        )

    def cache(self) -> DynamicCache:
        """A cache that grows by itself and leaves this state alone."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, index)
        return cache

    def extended(self, tokens: Tokens, cache: DynamicCache, run: Run) -> State:
        """The state after a run of further tokens, which the cache has taken in."""
        runs = self.runs
        if runs and (runs[-1].asked, runs[-1].acted) == (run.asked, run.acted):
            runs, run = runs[:-1], replace(run, begin=runs[-1].begin)
        return State(
            tokens=np.concatenate([self.tokens, tokens]),
            layers=tuple((layer.keys, layer.values) for layer in cache.layers),
            runs=(*runs, run),
        )


def plan(state: State, new: Tokens, asked: AdapterSet, invocations: Invocations) -> list[Run]:
    """The runs that append tokens to a state; they begin before its end to do a part again.

    Only tokens that were asked for under the same set as the new ones are done again.
    """
    held = len(state.tokens)
    total = held + len(new)
    own = {handle: invocations[handle] for handle, _ in asked if handle in invocations}
    if not own:
        return [Run(held, total, asked, asked)]
    tokens = np.concatenate([state.tokens, new])
    starts = {handle: last_occurrence(tokens, invocation) for handle, invocation in own.items()}
    since = held
    for run in reversed(state.runs):
        if run.asked != asked:
            break
        since = run.begin
    edges = sorted({since, total, *(s for s in starts.values() if since < s < total)})
    wanted = [
        Run(begin, end, asked, tuple(e for e in asked if starts.get(e[0], 0) <= begin))
        for begin, end in itertools.pairwise(edges)
    ]
    redo = _first_difference(state.runs, wanted, held)
    return [replace(run, begin=max(run.begin, redo)) for run in wanted if run.end > redo]


def last_occurrence(tokens: Tokens, invocation: Sequence[int]) -> int:
    """Where the last occurrence begins; beyond the end where there is none."""
    windows = np.lib.stride_tricks.sliding_window_view
    if len(invocation) > len(tokens):
        return len(tokens)
    found = np.flatnonzero((windows(tokens, len(invocation)) == np.asarray(invocation)).all(1))
    return int(found[-1]) if len(found) else len(tokens)


def _first_difference(had: Iterable[Run], wanted: Iterable[Run], held: int) -> int:
    """The first held token that another adapter set acted on than is wanted now."""
    for old, new in itertools.product(had, wanted):
        begin = max(old.begin, new.begin)
        if begin < min(old.end, new.end) and old.acted != new.acted:
            held = min(held, begin)
    return held


class Sequences:
    """The open sequences of one engine."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._states: dict[int, State] = {}
        self._ids = itertools.count(1)

    def __getitem__(self, sequence: int) -> State:
        if sequence not in self._states:
            raise EngineError(f"there is no open sequence {sequence}")
        return self._states[sequence]

    def open(self, state: State | None = None) -> int:
        if len(self._states) == self._most:
            raise EngineError(
                f"all {self._most} sequences are open",
                hint="close one, or raise max_batch or cached_sequences",
            )
        sequence = next(self._ids)
        self._states[sequence] = state or State()
        return sequence

    def put(self, states: Mapping[int, State]) -> None:
        """Take over what a step made of its sequences."""
        self._states |= states

    def length(self, sequence: int) -> int:
        return len(self[sequence].tokens)

    def truncate(self, sequence: int, length: int) -> None:
        self._states[sequence] = self._first(sequence, length, "truncate to")

    def fork(self, sequence: int, length: int) -> int:
        return self.open(self._first(sequence, length, "fork at"))

    def close(self, sequence: int) -> None:
        self[sequence]  # raises EngineError where there is none
        del self._states[sequence]

    def clear(self) -> None:
        self._states.clear()

    def _first(self, sequence: int, length: int, doing: str) -> State:
        state = self[sequence]
        if not 0 <= length <= len(state.tokens):
            raise EngineError(
                f"cannot {doing} {length}: the sequence holds {len(state.tokens)} tokens"
            )
        return state.first(length)
