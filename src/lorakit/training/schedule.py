"""The learning rate of each step."""

from __future__ import annotations

import math

from lorakit.training.settings import Schedule


def rate_at(step: int, schedule: Schedule) -> float:
    """The rate of a step, counted from 0: a linear way up, then down to zero as `decay` says."""
    steps, warmup, rate = schedule.steps or 1, schedule.warmup or 0, schedule.rate or 0.0
    if step < warmup:
        return rate * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule.decay == "constant":
        return rate
    return rate * (0.5 * (1 + math.cos(math.pi * done)) if schedule.decay == "cosine" else 1 - done)
