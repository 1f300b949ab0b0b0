"""Sequences: their keys and values.

A state is immutable, so a step that fails leaves it as it was, and a fork shares it. Every layer
keeps all keys and values, sliding ones too: what a window hides is masked, so any length can be
cut off again.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from transformers import DynamicCache

from lorakit.errors import EngineError

Layers = tuple[tuple[Any, Any], ...]  # keys and values [1, heads, tokens, head_dim] of each layer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """How many tokens a sequence holds, and their keys and values."""

    length: int = 0
    layers: Layers = ()

    def first(self, length: int) -> State:
        """The state of the first tokens, without the memory of the rest."""
        if length == self.length:
            return self
        if not length:
            return State()
        return State(
            length=length,
            layers=tuple(
                (keys[..., :length, :].clone(), values[..., :length, :].clone())
                for keys, values in self.layers
            ),
        )

    def cache(self) -> DynamicCache:
        """A cache that grows by itself and leaves this state alone."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, index)
        return cache

    def extended(self, count: int, cache: DynamicCache) -> State:
        """The state after further tokens, which the cache has taken in."""
        return State(
            length=self.length + count,
            layers=tuple((layer.keys, layer.values) for layer in cache.layers),
        )

    def save(self) -> bytes:
        """The keys and values as an .npz file."""
        file = io.BytesIO()
        arrays = {f"{n}": part.float().cpu().numpy() for n, part in enumerate(sum(self.layers, ()))}
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def load(cls, state: bytes, length: int, like: tuple[int, ...], device: Any) -> State:
        """What `save` gave; `like` is (layers, heads, head_dim). Raises EngineError."""
        layers, heads, head_dim = like
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as file:
                parts = [torch.from_numpy(file[f"{n}"]).to(device) for n in range(len(file.files))]
        except (ValueError, OSError, KeyError, EOFError, TypeError, BadZipFile) as error:
            raise EngineError("the saved state cannot be read") from error
        shape = (1, heads, length, head_dim)
        if len(parts) != 2 * layers or any(tuple(p.shape) != shape for p in parts) or length < 1:
            raise EngineError("the saved state is of another model, or of another length")
        if not all(torch.isfinite(part).all() for part in parts):
            raise EngineError("the saved state holds numbers that are not finite")
        return cls(length=length, layers=tuple(zip(parts[::2], parts[1::2], strict=True)))


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
        return self[sequence].length

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
        if not 0 <= length <= state.length:
            raise EngineError(f"cannot {doing} {length}: the sequence holds {state.length} tokens")
        return state.first(length)
