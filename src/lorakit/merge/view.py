"""A base with adapters in its weights that is written nowhere: each tensor is merged as it is read.

What an adapter changes comes as float32, so that nothing is rounded before whoever reads it rounds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorakit.adapter import Adapter, Array
from lorakit.architectures import describe
from lorakit.base.folder import Base, placed
from lorakit.files.mapped import release
from lorakit.merge.change import Arithmetic
from lorakit.merge.plan import Plan, plan
from lorakit.merge.stream import BLOCK


def merged_view(base: Base, adapters: Sequence[tuple[Adapter, float]]) -> Base:
    """The base as `merge` would write it, but for the dtype of what changes, which is float32.

    Its tensors are made anew each time that they are asked for. Adapters have to fit. Raises
    UnsupportedError as `merge` does.
    """
    todo = plan(base, adapters)
    config = {**base.config, **todo.config}
    decoder = describe(config)
    said = [base.fingerprint, *([adapter.digest, scale] for adapter, scale in adapters)]
    return replace(
        base,
        config=config,
        decoder=decoder,
        tensors=(tensors := _Merged(base.tensors, todo)),
        _stored=placed(decoder, tensors, base),
        _fingerprint=[hashlib.sha256(json.dumps(said).encode()).hexdigest()],
    )


def kept_dtype(base: Base, name: str) -> np.dtype[np.generic]:
    """What `merge` would write a stored tensor as where no dtype is asked for; of a view, too."""
    tensors = base.tensors
    if isinstance(tensors, _Merged):
        added, tensors = tensors.todo.added.get(name), tensors.before
        name = name if added is None or name in tensors else added.beside
    return tensors[name].dtype


def changed(base: Base) -> frozenset[str]:
    """Names of a view's stored tensors that hold other values than the base's, or are new."""
    tensors = base.tensors
    assert isinstance(tensors, _Merged)
    return frozenset({*tensors.todo.changes, *tensors.todo.added, *tensors.todo.sources})


@dataclass(frozen=True, slots=True)
class _Merged(Mapping[str, Array]):
    """Tensors by their stored names."""

    before: Mapping[str, Array]
    todo: Plan

    def __getitem__(self, name: str) -> Array:
        change = self.todo.changes.get(name)
        added = self.todo.added.get(name)
        if name not in self.before and added is None:
            raise KeyError(name)
        source = self.before.get(self.todo.sources.get(name, name))
        if change is None and source is not None:
            return source
        if source is None:
            assert added is not None
            source = np.zeros(added.shape, np.float32)
        if change is None:
            return source
        rows = source.reshape(-1, source.shape[-1] if source.ndim > 1 else 1)
        merged = rows.astype(np.float32)
        arithmetic = Arithmetic(change, merged.shape[1], merged.dtype)
        step = max(1, BLOCK // merged.shape[1])
        if change.norms_columns:
            arithmetic.measure(len(rows), step, lambda b, e: rows[b:e].astype(np.float32))
        scratch = np.empty(step * merged.shape[1], np.float32)
        for begin in range(0, len(merged), step):
            arithmetic.apply(merged[begin : begin + step], begin, scratch)
        release(source)
        return merged.reshape(source.shape)

    def __iter__(self) -> Iterator[str]:
        return iter({**self.before, **self.todo.added})

    def __len__(self) -> int:
        return len(self.before.keys() | self.todo.added.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.before or name in self.todo.added
