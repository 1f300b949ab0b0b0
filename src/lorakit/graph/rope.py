"""Rotary position embeddings: inverse frequencies and the cos/sin tables of a layer.

Su et al. 2021; the llama3 scaling as published with Llama 3.1; YaRN: Peng et al. 2023, section 3.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lorakit.architectures import Rope

Floats = npt.NDArray[np.float32]


def inverse_frequencies(rope: Rope, head_dim: int) -> Floats:
    """float32 [head_dim / 2], with the layer's scaling applied."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.kind == "linear":
        return (plain / np.float32(rope.factor)).astype(np.float32)
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, plain, head_dim)
    return plain


def _llama3(rope: Rope, plain: Floats) -> Floats:
    """Long wavelengths are slowed by `factor`, short ones kept, those between blended."""
    wavelength = 2 * math.pi / plain
    turns = rope.original_context / wavelength
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return ((1 - blend) * plain / rope.factor + blend * plain).astype(np.float32)


def _yarn(rope: Rope, plain: Floats, head_dim: int) -> Floats:
    """What turns often in the original context is kept, what turns less than once is slowed by
    `factor`; in between a ramp over the dimensions."""

    def dimension(turns: float) -> float:
        """Of which the frequency turns so often in the original context."""
        wavelength = rope.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high += 0.001 * (low == high)  # as transformers does, where there is no room for a ramp
    slowed = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0.0, 1.0)
    found: Floats = (plain / rope.factor * slowed + plain * (1 - slowed)).astype(np.float32)
    return found


def tables(rope: Rope, head_dim: int, context: int) -> tuple[Floats, Floats]:
    """cos and sin, each float32 [context, head_dim / 2]."""
    positions = np.arange(context, dtype=np.float32)
    angles = positions[:, None] * inverse_frequencies(rope, head_dim)[None, :]
    gain = np.float32(rope.attention)
    return np.cos(angles) * gain, np.sin(angles) * gain
