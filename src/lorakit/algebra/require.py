"""What keeps adapters from being summed: every reason at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lorakit.adapter import Adapter, Delta, Replacement
from lorakit.errors import UnsupportedError


def require_linear(adapters: Sequence[Adapter], *, exact: bool) -> None:
    """UnsupportedError that lists what is not linear in the weights, or does not go together.

    A replacement passes where every adapter holds the very same one, as PEFT stores the untouched
    embedding beside a delta of it. exact: sums, which biases of B may take part in.
    """
    faults = []
    for number, adapter in enumerate(adapters, 1):
        faults += [f"adapter {number}: {fault}" for fault in _own(adapter, adapters, exact)]
    faults += _shapes(adapters)
    tokens = {adapter.invocation_tokens for adapter in adapters}
    if len(tokens) > 1:
        faults.append(f"invocation tokens differ: {', '.join(map(str, sorted(tokens)))}")
    if faults:
        raise UnsupportedError(
            "these adapters have no sum that is one adapter",
            items=faults,
            hint="merge them into the base one after the other; replacements that hold what the "
            "base holds can be taken out first (check.without_unchanged, --base)",
        )


def _own(adapter: Adapter, adapters: Sequence[Adapter], exact: bool) -> Iterator[str]:
    for magnitude in adapter.magnitudes:
        yield f"{magnitude.module}: DoRA's magnitude is not linear"
    for replacement in adapter.replacements:
        if not all(any(_same(replacement, r) for r in a.replacements) for a in adapters):
            yield f"{replacement.name}: a {replacement.kind} does not scale"
    if not exact:
        for delta in adapter.deltas:
            if delta.bias is not None:
                yield f"{delta.module}: a bias of B (only concatenate and svd sum it)"


def _same(one: Replacement, other: Replacement) -> bool:
    if (one.name, one.kind, one.site) != (other.name, other.kind, other.site):
        return False
    rows = one.rows is None or np.array_equal(one.rows, np.asarray(other.rows))
    return rows and np.array_equal(one.value, other.value)


def _shapes(adapters: Sequence[Adapter]) -> Iterator[str]:
    first: dict[tuple[str, str], tuple[int, Delta]] = {}
    for number, adapter in enumerate(adapters, 1):
        for delta in adapter.deltas:
            where, known = first.setdefault(delta.key, (number, delta))
            if _shape(known) != _shape(delta):
                yield (
                    f"{delta.module}: {_shape(known)} in adapter {where}, "
                    f"{_shape(delta)} in adapter {number}"
                )


def _shape(delta: Delta) -> list[int]:
    """[experts,] out, in."""
    return [*delta.a.shape[:-2], delta.out_features, delta.in_features]
