"""The last MLP of a base, for the tokens alone whose states are read: no other token sees it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from lorakit.training.core.layers import Step


def only_read(mlp: Any, step: Step) -> None:
    """Let it leave out what `step.read` lacks."""
    mlp.forward = partial(_run, mlp.forward, step)


def _run(forward: Any, step: Step, x: Any) -> Any:
    """x [1, tokens, hidden]; zeros for the others."""
    scales = step.scales
    step.scales = {n: s[step.read] if torch.is_tensor(s) else s for n, s in scales.items()}
    try:
        found = forward(x.index_select(1, step.read))
    finally:
        step.scales = scales
    return x.new_zeros(x.shape).index_copy(1, step.read, found)
