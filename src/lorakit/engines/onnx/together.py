"""What a set of adapters makes of a module: in order, each of what those before it made.

W_k = W_(k-1) + d_k, and with DoRA W_k = m / |W_0 + d_k| * (W_(k-1) + d_k): so PEFT 0.21 defines it,
running and merging. W_0 is the base's weight or what replaces it. A bias of B is added outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lorakit.engines.onnx.attached import Attached, Factors, Floats
from lorakit.engines.protocol import AdapterSet
from lorakit.errors import AdapterError

AttachedSet = Mapping[int, Attached]  # by handle
Strength = np.float32 | Floats  # of a part of B: for all of its outputs, or for each


@dataclass(frozen=True, slots=True)
class Composed:
    """gain * (W x) + the sum of strength * b (a x) + shift: of a linear's outputs."""

    parts: list[tuple[Factors, Strength]]
    gain: Strength
    shift: Strength


def composed(module: str, held: AdapterSet, attached: AttachedSet) -> Composed:
    """A linear of the graph under a set."""
    parts: list[tuple[Factors, Strength]] = []
    gain: Strength = np.float32(1)
    shift: Strength = np.float32(0)
    for whole in _weights(module, held, attached):
        parts, gain = [(whole, np.float32(1))], np.float32(0)
    for handle, scale in held:
        if (factors := attached[handle].linears.get(module)) is None:
            continue
        strength = np.float32(scale * factors.scale)
        parts.append((factors, strength))
        if factors.bias is not None:
            shift = shift + factors.bias * strength
        if factors.dora is not None:
            each = factors.dora.gain(scale * factors.scale)
            parts = [(before, by * each) for before, by in parts]
            gain = gain * each
    for handle, _ in held:
        if (bias := attached[handle].biases.get(module)) is not None:
            shift = shift + bias
    return Composed(parts, gain, shift)


def rank_of(module: str, held: AdapterSet, attached: AttachedSet) -> int:
    """Of all parts of a linear together."""
    found = list(_weights(module, held, attached))
    found += [attached[h].linears[module] for h, _ in held if module in attached[h].linears]
    return sum(factors.rank for factors in found)


def _weights(module: str, held: AdapterSet, attached: AttachedSet) -> Iterator[Factors]:
    for handle, _ in held:
        if (found := attached[handle].weights.get(module)) is not None:
            yield found


def require_together(handles: Sequence[int], attached: AttachedSet) -> None:
    """Raise AdapterError where two adapters replace the same parameter, or one has DoRA's norms of
    a weight that another replaces."""
    twice: set[str] = set()
    norms: set[str] = set()
    for one, other in permutations(set(handles), 2):
        twice |= attached[one].replaced & attached[other].replaced
        norms |= attached[one].normed & attached[other].replaced
    if twice:
        raise AdapterError(
            "two adapters replace the same parameters",
            items=sorted(twice),
            hint="only one of them can be active at a time",
        )
    if norms:
        raise AdapterError(
            "an adapter replaces what another has DoRA magnitudes of",
            items=sorted(norms),
            hint="only one of them can be active at a time",
        )


def effective(held: AdapterSet) -> AdapterSet:
    """The adapters that act at all: scale 0 is the base."""
    return tuple((handle, float(scale)) for handle, scale in held if scale != 0)
