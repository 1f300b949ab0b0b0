"""Rotary position embeddings: inverse frequencies and the cos/sin tables of a layer.

Su et al. 2021; the llama3 scaling as published with Llama 3.1.
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
    return plain


def _llama3(rope: Rope, plain: Floats) -> Floats:
    """Long wavelengths are slowed by `factor`, short ones kept, those between blended."""
    wavelength = 2 * math.pi / plain
    turns = rope.original_context / wavelength
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return ((1 - blend) * plain / rope.factor + blend * plain).astype(np.float32)


def tables(rope: Rope, head_dim: int, context: int) -> tuple[Floats, Floats]:
    """cos and sin, each float32 [context, head_dim / 2]."""
    positions = np.arange(context, dtype=np.float32)
    angles = positions[:, None] * inverse_frequencies(rope, head_dim)[None, :]
    return np.cos(angles), np.sin(angles)
